"""Fourier transforms: blocks of every size agree with direct summation, and bound the memory."""

from __future__ import annotations

import dataclasses
import math
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv as pc
from polyconv.algorithms.fft import OVERLAP_SAVE, good_length
from polyconv.execution import road
from polyconv.tiling import Tile


def test_good_length_is_the_least_product_of_twos_threes_and_fives() -> None:
    smooth = sorted(2**i * 3**j * 5**k for i in range(13) for j in range(9) for k in range(6))
    for least in range(1, 4000):
        assert good_length(least) == next(length for length in smooth if length >= least)


def close(y: np.ndarray, expected: np.ndarray, plan: pc.Plan, x: np.ndarray, w: np.ndarray) -> None:
    """Within the predicted error, which is relative to the root mean square of what the data may sum to.

    For an output that is the sum of ``n`` products of independent numbers, that is ``sqrt(n)`` times the norms of one
    number each. Predictions are good to a factor of two, and none of a few thousand outputs is off by eight times the
    mean.
    """
    terms = w.size / plan.call.problem.filters / plan.call.problem.groups
    norm = np.sqrt(np.mean(np.abs(x) ** 2) * np.mean(np.abs(w) ** 2) * terms)
    assert np.max(np.abs(y - expected)) <= 2 * 8 * plan.chosen.error * norm


@st.composite
def calls(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any], tuple[int, ...]]:
    """An image, a kernel, keywords, and a block: from the phases' own kernel to beyond the image."""
    ndim = draw(st.integers(1, 3))
    axes = []
    for _ in range(ndim):
        k, s, d = draw(st.integers(1, {1: 9, 2: 5, 3: 3}[ndim])), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        n = (k - 1) * d + 1 + draw(st.integers(0, {1: 40, 2: 14, 3: 6}[ndim]))
        axes.append((k, s, d, n, draw(st.integers(-(-k * math.gcd(s, d) // s), n + 9))))
    kernel, stride, dilation, size, block = zip(*axes, strict=True)
    groups, channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kinds = [np.dtype(draw(st.sampled_from(["float32", "float64", "complex64", "complex128"]))) for _ in range(2)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def normal(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
        values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if kind.kind == "c" else 0)
        return np.asarray(values).astype(kind)

    x = normal((draw(st.integers(1, 2)), groups * channels, *size), kinds[0])
    w = normal((groups * filters, channels, *kernel), kinds[1])
    return x, w, {"stride": stride, "dilation": dilation, "groups": groups}, block


@settings(max_examples=120)
@given(calls())
def test_blocks_of_every_size_agree_with_direct_summation(call: Any) -> None:
    x, w, said, block = call
    plan = pc.plan(x, w, algorithm=pc.FFT(block), **said)
    y = plan(x, w)
    assert y.dtype == np.result_type(x, w)
    wide = np.result_type(x, w, np.float64)
    close(y, pc.conv(x.astype(wide), w.astype(wide), algorithm="im2col", **said), plan, x, w)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_block_of_one_image(layout: str) -> None:
    """From the kernel's own size, where a block has a single output, until one block holds everything."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 11, 9, 2) if layout == "NHWC" else (1, 2, 11, 9)), rng.standard_normal((2, 2, 4, 3))
    said: dict[str, Any] = {"layout": layout, "kernel_layout": "OIHW"}
    expected = pc.conv(x, w, algorithm="im2col", **said)
    for height in range(4, 14):
        for width in range(3, 12):
            plan = pc.plan(x, w, algorithm=pc.FFT((height, width)), **said)
            assert plan.chosen.algorithm.detail == f"{height}x{width}"
            close(plan(x, w), expected, plan, x, w)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((4, 8), "blocks of 4x8, smaller than the kernel 5x3"),
        ((8, 2), "blocks of 8x2, smaller than the kernel"),
        (8, r"blocks of 1 lengths \(8,\), for 2 spatial axes"),
        ((8, 8, 8), r"blocks of 3 lengths \(8, 8, 8\), for 2 spatial axes"),
    ],
)
def test_blocks_that_do_not_fit_the_problem(block: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm='fft' cannot run this problem: fft was given {message}"):
        pc.conv(np.ones((9, 9)), np.ones((5, 3)), layout="HW", algorithm=pc.FFT(block))


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (0, ValueError, "block=0 must be at least 1"),
        ((8, -1), ValueError, "block[1]=-1 must be at least 1"),
        ((), ValueError, "block=() is empty; give one integer, or one for each spatial axis"),
        (2.5, TypeError, "block=2.5 must be an integer, not float"),
        ("8", TypeError, "block='8' must be an integer, not str"),
        ((8, 8.0), TypeError, "block[1]=8.0 must be an integer, not float"),
        (True, TypeError, "block=True must be an integer, not a bool"),
        ((8, True), TypeError, "block[1]=True must be an integer, not a bool"),
    ],
)
def test_blocks_that_are_none(block: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        pc.FFT(block)


def test_equal_blocks_are_one_algorithm() -> None:
    assert pc.FFT((8, 9)) is pc.FFT((8, 9))
    assert pc.FFT(8) is pc.FFT((8,))
    assert pc.FFT() is pc.FFT(None)
    assert pc.FFT(np.int64(8)) is pc.FFT(8)
    assert pc.FFT(np.array([8, 9])) is pc.FFT([np.int8(8), 9]) is pc.FFT((8, 9))


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="fft is inexact, and sums of int64 are exact"):
        pc.conv(np.ones((9, 9), np.int8), np.ones((3, 3), np.int8), layout="HW", algorithm="fft")
    y = pc.conv(np.ones((9, 9), np.int8), np.ones((3, 3), np.float32), layout="HW", algorithm="fft")
    assert y.dtype == np.float32  # integers that meet floats are floats


def test_a_library_without_transforms_is_refused() -> None:
    plan = pc.plan(np.ones((9, 9)), np.ones((3, 3)), layout="HW")
    without = dataclasses.replace(plan.target, fft=False, library="mylib")
    assert OVERLAP_SAVE.reject(plan.call.problem, plan.target) is None
    reason = OVERLAP_SAVE.reject(plan.call.problem, without)
    assert reason == "fft needs Fourier transforms, and mylib has none in its namespace"


def test_memory_is_that_of_the_blocks_and_not_of_the_image() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((6000, 600), dtype=np.float32), rng.standard_normal((31, 31), dtype=np.float32)
    limit = x.nbytes // 12
    plan = pc.plan(x, w, layout="HW", algorithm="fft", max_workspace=limit)
    plan(x, w)
    pc.release_memory()
    tracemalloc.start()
    try:
        y = plan(x, w)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.chosen.workspace <= limit
    assert peak - y.nbytes <= limit + 3 * 8 * np.getbufsize()  # and NumPy's own buffers for three operands
    with pytest.raises(ValueError, match=r"needs \d{6} bytes, more than max_workspace=9999"):  # the least that does
        pc.plan(x, w, layout="HW", algorithm="fft", max_workspace=9999)
    corner = pc.conv(x[:60, -60:].astype(float), w.astype(float), layout="HW", algorithm="im2col")
    close(y[:30, -30:], corner, plan, x, w)


def test_one_block_fits_tiles_as_well():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 1, 90, 40)), rng.standard_normal((1, 1, 5, 5))
    plan = pc.plan(x, w, algorithm=pc.FFT())
    cut = road(plan.call, plan.chosen.algorithm, Tile(1, 40), workers=1)
    y = cut(x, *cut.prepare(w, None))
    np.testing.assert_allclose(y, pc.conv2d(x, w, algorithm="im2col"), rtol=0, atol=1e-12)
