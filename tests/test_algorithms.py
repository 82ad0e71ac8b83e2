"""Every algorithm, on every array library, against the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from backends import COMPILED, COMPLEX, FLOATS, ON_NUMPY, SIGNED, Backend
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from spy import WrongRoad, only
from strategies import Case, cases
from tolerance import beyond_direct, within_rounding

import polyconv as pc
from polyconv.algorithms.taps import DEPTHWISE

ALGORITHMS = pc.algorithms()


def call(case: Case, xp: Backend, algorithm: str) -> tuple[np.ndarray, float]:
    """Convolve by the named algorithm; check that it alone ran, and the home of what came back.

    Beside the result, how much further than direct summation it may be off.
    """
    x, w = xp.asarray(case.x), xp.asarray(case.w)
    bias = None if case.bias is None else xp.asarray(case.bias)
    before = [xp.to_numpy(a).copy() for a in (x, w)]
    with only(algorithm) as ran:
        y = pc.conv(x, w, bias, **case.keywords, algorithm=algorithm)
    assert sum(problem.output_elements for problem in ran) == math.prod(y.shape), "some outputs were made twice"
    assert xp.home(y) == xp.home(x)
    for array, old in zip((x, w), before, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(array), old, err_msg="an input was written to")
    plan = pc.plan(x, w, **case.keywords, algorithm=algorithm)
    return xp.to_numpy(y), beyond_direct(plan, case.x, case.w)


def shares_pixels(taps: int, stride: int, dilation: int) -> bool:
    """Whether two taps ever meet the same pixel along an axis: some of their distances are a number of strides."""
    return any(distance * dilation % stride == 0 for distance in range(1, taps))


def passes_range(case: Case) -> bool:
    """Whether integers of the case's dtypes may pass 64 bits on their way through Winograd's transforms.

    Along an axis where ``r`` taps of a phase share pixels, blocks of two outputs evaluate in ``r`` consecutive integers
    and interpolate, which makes sums too large by the denominators: divisors of ``(r - 1)!``. What is odd in them is
    undone modulo the range, so the power of two alone takes room. No other blocks take less.
    """
    room = 1
    for taps, stride, dilation in case.axes:
        together = len(range(0, taps, stride // math.gcd(stride, dilation)))
        room *= math.gcd(math.factorial(together - 1), 2**64)

    def largest(dtype: np.dtype) -> int:
        return 1 if dtype.kind == "b" else max(-int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))

    return (case.terms - 1) * room * largest(case.x.dtype) * largest(case.w.dtype) >= 2**63


def refusal(case: Case, xp: Backend, algorithm: str) -> str | None:
    """Why the algorithm does not take the case, said here independently of the library; None where it does."""
    integers = {case.x.dtype.kind, case.w.dtype.kind} <= {*"biu"}
    if algorithm == "pointwise" and not case.pointwise:
        return "pointwise takes kernels of one tap"
    if algorithm == "depthwise" and not case.depthwise:
        return "depthwise takes one input channel per group"
    if xp.lacks(algorithm):
        return f"{algorithm} is (compiled for NumPy|written in CUDA, for CuPy)'s arrays alone"
    if algorithm in COMPILED and "c" in case.x.dtype.kind + case.w.dtype.kind:
        return f"{algorithm} is (compiled|written) for single and double precision and for integers, not for complex"
    if algorithm == "fft" and integers:
        return "fft is inexact, and sums of u?int64 are exact"
    if algorithm == "winograd" and not any(shares_pixels(*axis) for axis in case.axes):
        return "winograd has nothing to save"
    if algorithm == "winograd" and integers and passes_range(case):
        return "pass the range of u?int64"
    return None


def run_all(case: Case, xp: Backend, check: object) -> None:
    for algorithm in ALGORITHMS:
        if (reason := refusal(case, xp, algorithm)) is None:
            y, beyond = call(case, xp, algorithm)
            check(y, algorithm, beyond)  # type: ignore[operator]
        else:
            with pytest.raises(ValueError, match=f"algorithm='{algorithm}' cannot run this problem.*{reason}"):
                call(case, xp, algorithm)


def draws(xp: Backend, data: st.DataObject, dtypes: tuple[str, ...]) -> Case:
    """A case of dtypes that the library has; few element loops where each element is a call of its own."""
    known = tuple(d for d in dtypes if d in xp.dtypes + xp.halves)
    return data.draw(cases(dtypes=known, max_terms=1500 if "numpy" in xp.name else 150))


def examples(xp: Backend) -> settings:
    return settings(max_examples=xp.examples, suppress_health_check=list(HealthCheck))


def test_integers_are_exact(xp: Backend) -> None:
    @examples(xp)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = draws(xp, data, ("bool", *SIGNED, "uint8", "uint16", "uint32"))
        expected = case.expected().astype(np.int64)

        def same(y: np.ndarray, algorithm: str, beyond: float) -> None:
            assert beyond == 0, algorithm
            assert y.dtype in (np.int64, np.uint64), algorithm
            np.testing.assert_array_equal(y.astype(np.int64), expected, err_msg=algorithm)

        run_all(case, xp, same)

    check()


def test_unsigned_integers_stay_unsigned() -> None:
    x, w = np.full((1, 1, 3, 3), 2**63, dtype=np.uint64), np.ones((1, 1, 1, 1), dtype=np.uint8)
    for algorithm in ("im2col", "pointwise", "taps", "naive"):
        y = pc.conv2d(x, w, algorithm=algorithm)
        assert y.dtype == np.uint64
        assert int(y[0, 0, 0, 0]) == 2**63


def test_floats_within_rounding(xp: Backend) -> None:
    @examples(xp)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = draws(xp, data, (*FLOATS, *COMPLEX))
        dtype = np.result_type(case.x.dtype, case.w.dtype)

        def close(y: np.ndarray, algorithm: str, beyond: float) -> None:
            assert y.dtype == dtype, algorithm
            within_rounding(case, y, algorithm, dtype, beyond)

        run_all(case, xp, close)

    check()


def test_half_precision_is_summed_in_float32(xp: Backend) -> None:
    if not xp.halves:
        pytest.skip(f"{xp} has no half precision")

    @examples(xp)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = draws(xp, data, xp.halves)

        def close(y: np.ndarray, algorithm: str, beyond: float) -> None:
            assert y.dtype == case.x.dtype, algorithm
            within_rounding(case, y, algorithm, case.x.dtype, beyond)

        run_all(case, xp, close)

    check()


def test_integer_images_take_the_dtype_of_a_floating_kernel(xp: Backend) -> None:
    @examples(xp)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = draws(xp, data, ("uint8", "int16", "bool", "float32"))
        assume({case.x.dtype.kind, case.w.dtype.kind} > {"f"})
        for algorithm in ("im2col", "taps", "einsum"):
            y, beyond = call(case, xp, algorithm)
            assert y.dtype == np.float32
            within_rounding(case, y, algorithm, np.dtype(np.float32), beyond)

    check()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((0, 1, 5, 5), (3, 1, 1, 1)),  # no images
        ((2, 1, 5, 5), (0, 1, 1, 1)),  # no filters
        ((2, 1, 0, 5), (3, 1, 1, 1)),  # no rows
        ((2, 0, 5, 5), (3, 0, 1, 1)),  # no channels: sums of nothing
    ],
    ids=["batch", "filters", "rows", "channels"],
)
def test_empty_dimensions(library: Backend, algorithm: str, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    if algorithm == "depthwise" and x[1] == 0:
        pytest.skip("depthwise takes one channel")
    if library.lacks(algorithm):
        pytest.skip("compiled for other libraries' arrays")
    if algorithm == "winograd":
        x, w = (*x[:3], x[3] + 1), (*w[:3], w[3] + 1)  # a kernel of one tap has nothing to save
    image, kernel = np.ones(x, dtype=np.float32), np.ones(w, dtype=np.float32)
    bias = np.arange(w[0], dtype=np.float32)
    y = pc.conv2d(library.asarray(image), library.asarray(kernel), library.asarray(bias), algorithm=algorithm)
    expected = np.broadcast_to(bias[:, None, None], (x[0], w[0], x[2], x[3] - w[3] + 1))
    if x[1]:
        expected = expected + 1
    np.testing.assert_array_equal(library.to_numpy(y), expected)
    assert library.to_numpy(y).dtype == np.float32


def test_an_empty_axis_stays_empty() -> None:
    for padding in ("same", "valid"):
        y = pc.conv2d(np.ones((2, 3, 0, 7)), np.ones((4, 3, 3, 3)), padding=padding)
        assert y.shape == (2, 4, 0, 7 if padding == "same" else 5)


def test_results_are_contiguous_in_the_layout_of_the_caller() -> None:
    rng = np.random.default_rng(0)
    for layout in ("NCHW", "NHWC", "CHWN", "HWC", "WHCN"):
        extent = {"N": 2, "C": 4, "H": 6, "W": 7}
        x = rng.standard_normal([extent[a] for a in layout])
        w = rng.standard_normal((6, 2, 3, 3))
        bias = rng.standard_normal(6)
        for algorithm in ON_NUMPY:
            if algorithm not in ("pointwise", "depthwise"):
                y = pc.conv2d(x, w, bias, layout=layout, kernel_layout="OIHW", groups=2, algorithm=algorithm)
                assert y.flags.c_contiguous, (layout, algorithm)
                assert y.flags.owndata or y.base is not x, (layout, algorithm)


def test_the_spy_catches_a_wrong_road() -> None:
    x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    with only("naive"), pytest.raises(WrongRoad):
        pc.conv2d(x, w, algorithm="im2col")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((2, 9, 5), (3, 1, 5), {"layout": "NWC", "groups": 5}),
        ((2, 9, 11, 6), (3, 2, 1, 12), {"layout": "NHWC", "groups": 6, "stride": (2, 1), "dilation": (1, 2)}),
        ((1, 5, 6, 7, 4), (3, 3, 3, 1, 4), {"layout": "NDHWC", "groups": 4, "padding": 1, "stride": 2}),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_depthwise_in_one_pass(dtype: str, x: Any, w: Any, keywords: Any, workers: int) -> None:
    rng = np.random.default_rng(0)
    image, kernel = (rng.integers(-9, 9, shape).astype(dtype) for shape in (x, w))
    assert DEPTHWISE.variants is not None
    problem = pc.plan(image, kernel, **keywords).call.problem
    one_pass = DEPTHWISE.variants(problem, None)[1]  # type: ignore[arg-type]  # for every target the same
    plan = pc.plan(image, kernel, algorithm=one_pass, workers=workers, **keywords)
    assert plan.chosen.algorithm.detail == "one pass"
    expected = pc.conv(image, kernel, algorithm="tensordot", **keywords)
    np.testing.assert_array_equal(plan(image, kernel), expected)
    np.testing.assert_array_equal(plan.prepare(kernel)(image), expected)


def test_an_algorithm_prints_as_its_name_and_what_tells_it_from_its_like() -> None:
    assert repr(DEPTHWISE) == "<polyconv.Algorithm depthwise>"
    assert repr(pc.FFT()) == "<polyconv.Algorithm fft>"
    assert repr(pc.FFT((8, 9), fused=True)) == "<polyconv.Algorithm fft: 8x9, fused>"
    assert repr(pc.Winograd((2, 4))) == "<polyconv.Algorithm winograd: m=2x4>"
