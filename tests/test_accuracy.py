"""What ``accuracy=`` promises: a bound on errors with "fast", nothing but direct summation with "strict"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import polyconv as pc

# The bounds that the documentation states, and the methods that they concern.
BOUNDS = {"float32": 2e-6, "complex64": 2e-6, "float64": 1e-13, "complex128": 1e-13}
INDIRECT = ("winograd", "fft")

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
FAST: dict[str, Shapes] = {  # what "fast" picks for them in float64
    "winograd": ((2, 64, 56, 56), (64, 64, 3, 3)),
    "fft": ((1, 1, 600, 600), (1, 1, 81, 81)),
}
PROBLEMS: list[Shapes] = [
    *FAST.values(),
    ((2, 128, 30, 30), (128, 128, 3, 3)),
    ((1, 32, 40, 40), (32, 32, 5, 5)),
    ((1, 16, 64, 64), (16, 16, 11, 11)),
    ((4, 3, 33, 33), (8, 3, 3, 3)),
    ((4, 512, 300), (512, 512, 3)),
    ((1, 16, 16, 16, 16), (16, 16, 3, 3, 3)),
]


class Shaped:
    """Something with a shape and a dtype, and no data to look at."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype


def normal(shapes: Shapes, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("picked", FAST)
def test_strict_keeps_what_is_not_finite_in_its_windows(picked: str, value: float) -> None:
    x, w = normal(FAST[picked], "float64")
    assert pc.plan(x, w).algorithm == picked
    assert pc.plan(x, w, accuracy="strict").algorithm not in INDIRECT
    clean = pc.conv2d(x, w, accuracy="strict")
    k = w.shape[-1]
    x[0, 0, 30, 25] = value
    y = pc.conv2d(x, w, accuracy="strict")
    touched = np.zeros(y.shape, dtype=bool)
    touched[0, :, max(31 - k, 0) : 31, max(26 - k, 0) : 26] = True
    np.testing.assert_array_equal(np.isfinite(y), ~touched)
    np.testing.assert_array_equal(y[~touched], clean[~touched])
    with np.errstate(invalid="ignore"):
        spoiled = ~np.isfinite(pc.conv2d(x, w, accuracy="fast"))  # what strict is for
    assert spoiled[touched].all()
    assert spoiled.sum() > touched.sum()


@pytest.mark.parametrize("algorithm", [*INDIRECT, pc.Winograd(2), pc.FFT((64, 64))])
def test_strict_refuses_other_methods_by_name(algorithm: Any) -> None:
    x, w = normal(FAST["winograd"])
    reason = "cannot run this problem: accuracy='strict' forbids outputs that depend on more than their own windows"
    with pytest.raises(ValueError, match=reason):
        pc.conv2d(x, w, algorithm=algorithm, accuracy="strict")


def test_strict_admits_winograd_where_it_is_exact() -> None:
    x, w = np.ones((1, 2, 9, 9), np.int8), np.ones((3, 2, 3, 3), np.int8)
    assert (pc.conv2d(x, w, algorithm="winograd", accuracy="strict") == 18).all()


@pytest.mark.parametrize("dtype", BOUNDS)
def test_fast_keeps_to_the_documented_bound(dtype: str) -> None:
    assert f"{BOUNDS[dtype]:.0e}".replace("e-0", "e-") in str(pc.conv.__doc__)
    picked = set()
    for x, w in PROBLEMS:
        plan = pc.plan(Shaped(x, dtype), Shaped(w, dtype))
        picked.add(plan.algorithm)
        for candidate in plan.candidates:
            if candidate.name in INDIRECT and candidate.error > BOUNDS[dtype]:
                assert "is over the" in str(candidate.reason)
                assert candidate.name != plan.algorithm
            if candidate.name in INDIRECT and candidate.reason is None:
                assert 0 < candidate.error <= BOUNDS[dtype]
    assert picked & {*INDIRECT}


def test_fast_admits_direct_summation_alone_for_halves() -> None:
    for x, w in PROBLEMS:
        plan = pc.plan(Shaped(x, "float16"), Shaped(w, "float16"))
        assert plan.algorithm not in INDIRECT
        reasons = {candidate.name: candidate.reason for candidate in plan.candidates}
        for name in INDIRECT:
            if (name, w[-1]) != ("winograd", 81):  # which has a reason of its own
                assert reasons[name] == "accuracy='fast' admits direct summation alone for float16"
        requested = pc.plan(Shaped(x, "float32"), Shaped(w, "float32"), dtype="float16")
        assert requested.algorithm not in INDIRECT


@pytest.mark.parametrize("algorithm", INDIRECT)
def test_halves_run_what_is_named(algorithm: str) -> None:
    x, w = normal(((1, 4, 12, 12), (3, 4, 3, 3)), "float16")
    y = pc.conv2d(x, w, algorithm=algorithm)
    assert y.dtype == np.float16
    exact = pc.conv2d(x.astype(np.float64), w.astype(np.float64), algorithm="im2col")
    # What is summed in float32 errs by less than the one rounding at the end, to half a unit.
    np.testing.assert_allclose(y, exact, rtol=2.0**-10, atol=1e-4)


def test_what_is_named_runs_over_the_bound() -> None:
    x, w = normal(((1, 64, 24, 24), (4, 64, 5, 5)))
    exact = pc.conv2d(x.astype(np.float64), w.astype(np.float64), algorithm="im2col")
    for algorithm in (pc.Winograd(6), pc.Winograd(8)):
        plan = pc.plan(x, w, algorithm=algorithm)
        assert plan.algorithm == "winograd"
        assert plan.chosen.error > BOUNDS["float32"]
        assert plan.chosen.reason is None
        error = plan(x, w) - exact
        assert np.sqrt(np.mean(error**2) / np.mean(exact**2)) <= 4 * plan.chosen.error


def test_a_name_keeps_to_the_bound_where_a_variant_of_it_can() -> None:
    x, w = (Shaped(shape, "float32") for shape in FAST["winograd"])
    assert pc.plan(x, w, algorithm="winograd").chosen.error <= BOUNDS["float32"]
    x, w = (Shaped(shape, "float32") for shape in ((1, 64, 42, 42), (64, 64, 9, 9)))
    plan = pc.plan(x, w, algorithm="winograd")
    assert plan.chosen.algorithm.detail.startswith("m=2")  # the most accurate, where none can
    assert plan.chosen.error > BOUNDS["float32"]


@pytest.mark.parametrize("accuracy", ["any", "FAST", None, True, 1])
def test_there_is_no_other_accuracy(accuracy: Any) -> None:
    with pytest.raises(ValueError, match=f"accuracy={accuracy!r} must be 'fast' or 'strict'"):
        pc.conv2d(*normal(FAST["fft"]), accuracy=accuracy)
