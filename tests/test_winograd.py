"""Winograd's method: its transforms in exact fractions, its blocks of every size, its rounding errors as predicted."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv as pc
from polyconv.algorithms.cook_toom import Matrix, amplification, integer_points, spread_points
from polyconv.algorithms.minimal import designed

SIZES = [(m, r) for m in range(1, 9) for r in range(2, 9)]
NAMED = {"default": lambda n: None, "integer": integer_points}


def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


def check_exact(m: int, r: int, points: Any) -> None:
    """``y = AT [(G g) * (BT d)]`` on fractions that no two terms share, against the definition."""
    t = pc.winograd_transforms(m, r, points)
    n = m + r - 1
    assert [(len(a), len(a[0])) for a in t] == [(m, n), (n, r), (n, n)]
    assert all(type(a) is Fraction and type(a.numerator) is int for matrix in t for row in matrix for a in row)
    g, d = ([Fraction(7**i % 97, i + k) for i in range(length)] for length, k in ((r, 2), (n, 13)))
    products = [a * b for a, b in zip(times(t.G, g), times(t.BT, d), strict=True)]
    assert times(t.AT, products) == [sum(g[k] * d[o + k] for k in range(r)) for o in range(m)]


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize(("m", "r"), SIZES)
def test_transforms_are_exact(m: int, r: int, kind: str) -> None:
    check_exact(m, r, NAMED[kind](m + r - 2))


@given(st.sampled_from(SIZES), st.data())
def test_transforms_are_exact_at_any_rational_points(size: tuple[int, int], data: st.DataObject) -> None:
    m, r = size
    number = m + r - 2
    fractions = st.fractions(-9, 9, max_denominator=12)
    check_exact(m, r, data.draw(st.lists(fractions, min_size=number, max_size=number, unique=True)))


def test_points_may_be_spelled_in_many_ways() -> None:
    spelled: list[Any] = ["0", "1/2", -2.0, np.int64(3), 0.25]
    expected = pc.winograd_transforms(3, 4, [Fraction(0), Fraction(1, 2), Fraction(-2), Fraction(3), Fraction(1, 4)])
    assert pc.winograd_transforms(3, 4, spelled) == expected
    check_exact(12, 12, np.arange(-11, 11))  # products of differences pass int64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2, 3, (0, 1, 1)), ValueError, "points=0, 1, 1 has 1 twice"),
        ((2, 3, ("1/2", 0, 0.5)), ValueError, "points=1/2, 0, 1/2 has 1/2 twice"),
        ((2, 3, (0, 1)), ValueError, r"F\(2, 3\) takes 3 points .* has 2"),
        ((2, 3, (0, 1, -1, 2)), ValueError, r"F\(2, 3\) takes 3 points .* has 4"),
        ((2, 2, (0, float("nan"))), TypeError, "the point nan is no rational number"),
        ((2, 2, (0, float("inf"))), TypeError, "the point inf is no rational number"),
        ((2, 2, (0, "sqrt(2)")), TypeError, r"the point 'sqrt\(2\)' is no rational number"),
        ((2, 2, (0, "1/0")), TypeError, "the point '1/0' is no rational number"),
        ((2, 2, (0, 1j)), TypeError, "the point 1j is no rational number"),
        ((2, 2, (0, None)), TypeError, "the point None is no rational number"),
        ((2, 2, 5), TypeError, "points=5 must be a sequence of numbers, not int"),
        ((0, 3), ValueError, "m=0 must be at least 1"),
        ((2, -1), ValueError, "r=-1 must be at least 1"),
        ((2.5, 3), TypeError, "m=2.5 must be an integer, not float"),
        ((2, "3"), TypeError, "r='3' must be an integer, not str"),
        ((True, 3), TypeError, "m=True must be an integer, not a bool"),
    ],
)
def test_errors_name_what_was_wrong(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pc.winograd_transforms(*arguments)


def test_integers_of_any_kind() -> None:
    assert pc.winograd_transforms(np.int64(2), np.uint8(3)) == pc.winograd_transforms(2, 3)


def test_default_points_are_distinct() -> None:
    for number in range(25):  # m + r up to 26
        for points in (spread_points(number), tuple(integer_points(number))):
            assert len(set(points)) == len(points) == number


@pytest.mark.parametrize(
    ("m", "r", "published"),
    [
        (2, 3, "0 1 -1"),
        (4, 3, "0 1 -1 2 -2"),
        (4, 3, "0 1 -1 1/2 -2"),
        (4, 3, "0 5/8 -5/8 3/2 -3/2"),
        (6, 3, "0 1 -1 2 -2 1/2 -1/2"),
        (8, 3, "0 2/5 -2/5 5/6 -5/6 6/5 -6/5 5/2 -5/2"),
        (2, 5, "0 2/3 -2/3 3/2 -3/2"),
    ],
)
def test_default_points_lose_no_more_than_published_ones(m: int, r: int, published: str) -> None:
    """By more than the fiftieth that ``spread_points`` owns up to."""
    theirs = amplification(pc.winograd_transforms(m, r, published.split()))
    assert amplification(pc.winograd_transforms(m, r)) <= 1.02 * theirs


# -- as an algorithm -----------------------------------------------------------------------------------------


def test_equal_settings_are_one_algorithm() -> None:
    assert pc.Winograd(4) is pc.Winograd() is pc.Winograd(m=4)
    assert pc.Winograd(2, (0, 1, -1)) is pc.Winograd(2, [Fraction(0), "1", -1.0])
    assert pc.Winograd((2, 3)) is pc.Winograd((2, 3))
    assert pc.Winograd(np.int64(4)) is pc.Winograd(np.array(4)) is pc.Winograd(4)
    assert pc.Winograd(np.array([2, 3])) is pc.Winograd([np.int8(2), 3]) is pc.Winograd((2, 3))
    assert len({pc.Winograd(m) for m in (2, 3, (2, 3), (3, 2))}) == 4
    x, w = np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3))
    assert pc.plan(x, w, algorithm=pc.Winograd(3)) is pc.plan(x, w, algorithm=pc.Winograd(3))


def test_a_plan_says_which_winograd_it_is() -> None:
    x, w = np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3))
    assert "m=3, as asked" in str(pc.plan(x, w, algorithm=pc.Winograd(3)))
    assert "m=2x5, as asked" in str(pc.plan(x, w, algorithm=pc.Winograd((2, 5))))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "m=0 must be at least 1"),
        (((2, 0),), ValueError, r"m\[1\]=0 must be at least 1"),
        (((),), ValueError, r"m=\(\) is empty; give one integer, or one for each spatial axis"),
        ((2.5,), TypeError, "m=2.5 must be an integer, not float"),
        (("4",), TypeError, "m='4' must be an integer, not str"),
        ((None,), TypeError, "m=None must be an integer, not NoneType"),
        ((True,), TypeError, "m=True must be an integer, not a bool"),
        (((2, True),), TypeError, r"m\[1\]=True must be an integer, not a bool"),
        ((2, (0, 1, 0)), ValueError, "points=0, 1, 0 has 0 twice"),
        ((2, (0, "x")), TypeError, "the point 'x' is no rational number"),
        ((2, 3), TypeError, "points=3 must be a sequence of numbers, not int"),
    ],
)
def test_settings_that_are_none(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pc.Winograd(*arguments)


@pytest.mark.parametrize(
    ("kernel", "algorithm", "message"),
    [
        ((3, 3), pc.Winograd(4, (0, 1, -1)), "needs 5 points for this kernel, and was given 3"),
        ((1, 7), pc.Winograd((9, 2), (0, 1, -1)), "needs 7 points for this kernel, and was given 3"),
        ((3, 3), pc.Winograd((2, 2, 2)), r"given m=\(2, 2, 2\), 3 numbers, for 2 spatial axes"),
        ((3, 3), pc.Winograd(10**6), "takes at most 24 points along an axis, and this kernel needs 1000002"),
        ((1, 1), pc.Winograd(4), "nothing to save where the kernel has one tap along every axis"),
    ],
)
def test_problems_that_it_refuses(kernel: tuple[int, ...], algorithm: pc.Algorithm, message: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm='winograd' cannot run this problem: winograd .*{message}"):
        pc.conv(np.ones((12, 12)), np.ones(kernel), layout="HW", algorithm=algorithm)


KERNELS = [(2,), (7,), (3, 5), (1, 7), (2, 2), (5, 1), (3, 3), (2, 3, 2), (3, 1, 2), (2, 2, 1, 2)]


@settings(max_examples=150)
@given(st.sampled_from(KERNELS), st.data())
def test_integers_are_exact_for_any_block_and_size(kernel: tuple[int, ...], data: st.DataObject) -> None:
    """Blocks that do not divide the size, blocks longer than the image, one block for each axis or for all."""
    ndim, blocks = len(kernel), st.integers(1, 6)
    m = data.draw(st.one_of(blocks, st.tuples(*[blocks] * ndim)))
    size = tuple(k + data.draw(st.integers(0, 11 if ndim < 3 else 3)) for k in kernel)
    dtypes = st.sampled_from(["int8", "uint8", "int16", "uint16", "bool"])
    groups, channels, rng = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3)), np.random.default_rng(0)

    def extreme(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Mostly the least and the most that the dtype has."""
        least, most = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return rng.choice([least, most, most, 1], shape).astype(dtype)

    x = extreme(data.draw(dtypes), (2, groups * channels, *size))
    w = extreme(data.draw(dtypes), (2 * groups, channels, *kernel))
    letters = "TDHW"[-ndim:]
    said: dict[str, Any] = {"groups": groups, "layout": "NC" + letters}
    if data.draw(st.booleans()):
        said = {"groups": groups, "layout": "N" + letters + "C", "kernel_layout": "OI" + letters}
        x = np.moveaxis(x, 1, -1)
    y = pc.conv(x, w, algorithm=pc.Winograd(m), **said)
    expected = pc.conv(x.astype(np.int64), w.astype(np.int64), algorithm="im2col", **said)
    np.testing.assert_array_equal(y.astype(np.int64), expected)


@pytest.mark.parametrize(
    ("dtype", "total", "channels", "m"),
    [("int8", "int32", 8, 6), ("uint8", "uint32", 8, 6), ("int16", "int64", 64, 8), ("uint16", "uint64", 64, 8)],
)
def test_integers_are_exact_past_overflow_on_the_way(dtype: str, total: str, channels: int, m: int) -> None:
    least, most = (int(bound) for bound in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    rng = np.random.default_rng(0)
    x = rng.choice([least, most], (1, channels, 13, 11)).astype(dtype)
    w = rng.choice([least, most], (2, channels, 3, 3)).astype(dtype)
    x[0, :, :8, :8] = w[0, 0, 0, 0] = w[0] = least or most  # one output is as large as any may be
    expected = pc.conv2d(x.astype(np.int64), w.astype(np.int64), algorithm="im2col")
    divisor = designed((m, m), (3, 3), None, total).divisor
    assert int(expected.max()) * divisor > np.iinfo(total).max  # what is divided at the end has run over
    y = pc.conv2d(x, w, dtype=total, algorithm=pc.Winograd(m))
    assert y.dtype == total
    np.testing.assert_array_equal(y.astype(np.int64), expected)


def test_integers_whose_sums_may_pass_the_range_are_refused() -> None:
    """F(2, 3) along two axes makes sums four times as large: refused from a quarter of the range on."""
    for channels, refused in ((3640, False), (3641, True)):  # 2**14 * 9 * 4 * channels reaches 2**31 between them
        x, w = np.ones((1, channels, 4, 4), np.int8), np.ones((1, channels, 3, 3), np.int8)
        if refused:
            with pytest.raises(ValueError, match="4 times as large on the way, pass the range of int32"):
                pc.conv2d(x, w, dtype="int32", algorithm=pc.Winograd(2))
        else:
            assert (pc.conv2d(x, w, dtype="int32", algorithm=pc.Winograd(2)) == 9 * channels).all()
    with pytest.raises(ValueError, match="pass the range of int64"):
        pc.conv2d(np.ones((1, 1, 4, 4), int), np.ones((1, 1, 3, 3), int), algorithm="winograd")


# -- rounding errors -----------------------------------------------------------------------------------------


def relative_error(y: np.ndarray, exact: np.ndarray) -> float:
    """Relative, root mean square: what ``Candidate.error`` predicts."""
    return float(np.sqrt(np.mean(np.abs(y - exact) ** 2) / np.mean(np.abs(exact) ** 2)))


def exact_sums(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution in numbers wider than those of ``x`` and ``w``: a sum of shifted products."""
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    height, width = (n - k + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True))
    taps = [(x[:, :, i : i + height, j : j + width], w[:, :, i, j]) for i, j in np.ndindex(w.shape[2:])]
    total: np.ndarray = np.sum(
        [np.einsum("nchw,kc->nkhw", part.astype(wide), tap.astype(wide)) for part, tap in taps], axis=0
    )
    return total


SWEEP: list[tuple[Any, int, int]] = [
    *((pc.Winograd(m), 3, 64) for m in range(2, 7)),
    *((pc.Winograd(m), 5, 64) for m in range(2, 5)),
    *((pc.Winograd(4), 3, channels) for channels in (8, 256)),
    *((algorithm, r, channels) for algorithm in ("im2col", "fft") for r, channels in ((3, 8), (3, 64), (5, 64))),
    ("fft", 3, 256),
    ("im2col", 3, 256),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("algorithm", "r", "channels"),
    SWEEP,
    ids=lambda value: f"{value.name}-{value.detail}" if isinstance(value, pc.Algorithm) else str(value),
)
def test_predicted_errors_are_found(algorithm: Any, r: int, channels: int, dtype: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).eps > 2.0**-60:
        pytest.skip("nothing wider than float64 here")
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((1, channels, 26, 26)).astype(dtype),
        rng.standard_normal((4, channels, r, r)).astype(dtype),
    )
    plan = pc.plan(x, w, algorithm=algorithm)
    predicted, found = plan.chosen.error, relative_error(plan(x, w), exact_sums(x, w))
    assert predicted / 4 <= found <= predicted * 4


def test_f4_of_3x3_errs_at_most_six_times_as_much_as_im2col() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 64, 34, 34), dtype=np.float32), rng.standard_normal((16, 64, 3, 3), dtype=np.float32)
    exact = exact_sums(x, w)
    winograd, im2col = (relative_error(pc.conv2d(x, w, algorithm=a), exact) for a in (pc.Winograd(4), "im2col"))
    assert winograd <= 6 * im2col
