"""Overlap-save in one pass: vectors, their transforms of every length, and blocks of every shape."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import DTypeLike
from strategies import cases

import polyconv as pc
from polyconv import arrays
from polyconv.algorithms import spectra
from polyconv.arrays import address, aligned
from polyconv.compiled import butterflies
from polyconv.compiled.vectors import VECTOR_BYTES, lanes_to_rows, rows_to_lanes
from polyconv.planning import make_plan

DTYPES = ("float32", "float64")


def complex_lanes(rng: np.random.Generator, points: int, dtype: str) -> np.ndarray:
    """So many complex vectors: ``(points, 2, lanes)``."""
    x = aligned((points, 2, VECTOR_BYTES // np.dtype(dtype).itemsize), np.dtype(dtype))
    x[...] = rng.standard_normal(x.shape)
    return x


@pytest.mark.parametrize("dtype", DTYPES)
def test_transforms_of_every_length(dtype: str) -> None:
    """Forwards and backwards, against NumPy's in double precision; by way of steps, and into their own place."""
    rng = np.random.default_rng(0)
    lanes, item = VECTOR_BYTES // np.dtype(dtype).itemsize, np.dtype(dtype).itemsize
    for n, backwards in product(spectra.lengths(), (False, True)):
        (r, s), twiddles = spectra._twiddles(n, np.dtype(dtype))
        assert r * s == n
        x, scratch = complex_lanes(rng, 3 * n, dtype), complex_lanes(rng, n, dtype)
        numbers = x[:, 0].astype(complex) + 1j * x[:, 1]
        expected = np.fft.ifft(numbers[::3], axis=0, norm="forward") if backwards else np.fft.fft(numbers[::3], axis=0)
        there, turn = address(x), lanes if backwards else 0
        plan = np.array([n, r, s, address(twiddles), butterflies.code(dtype)])
        butterflies.transform(
            x.dtype.type(0), plan, there, 0, 6 * lanes, there + 2 * lanes * item, 0, 6 * lanes, turn, address(scratch)
        )
        found = x[1::3, 0].astype(complex) + 1j * x[1::3, 1]
        error = np.sqrt(np.mean(np.abs(found - expected) ** 2) / np.mean(np.abs(expected) ** 2))
        assert error < np.finfo(dtype).eps * (1 + np.log2(n)), (n, backwards)
        np.testing.assert_array_equal(x[::3, 0], numbers[::3].real)  # the source is left alone


def test_factors_are_straight_line_code() -> None:
    assert set(spectra._RADICES) == set(butterflies.RADICES)
    for n in spectra.lengths():
        found = spectra.factors(n)
        assert found is not None
        assert np.prod(found) == n
    assert spectra.factors(17) is None
    assert spectra.lengths()[-1] == 256


@njit
def there_and_back(element, source, places, number, lanes, target, step, again):
    rows_to_lanes(element, source, places, number, target, 0, step)
    lanes_to_rows(element, target, 0, step, number, again, places)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_become_lanes_and_rows_again(dtype: str) -> None:
    """What lies outside a row's bounds is neither read, being NaN, nor written."""
    rng, lanes, number, step = np.random.default_rng(0), VECTOR_BYTES // np.dtype(dtype).itemsize, 37, 24
    x = rng.standard_normal((lanes, 50)).astype(dtype)
    places = np.zeros((3, lanes), dtype="int64")
    places[0] = 50 * np.arange(lanes) + 2
    places[1], places[2] = rng.integers(0, 9, lanes), rng.integers(9, number + 1, lanes)
    places[2, 3] = 0  # a row that is not there
    inside = (np.arange(50) - 2 >= places[1][:, None]) & (np.arange(50) - 2 < places[2][:, None])
    source = np.where(inside, x, np.nan)
    wide, again = np.full((number + lanes, step), 7.0, dtype=dtype), np.full_like(x, 5.0)
    there_and_back(x.dtype.type(0), address(source), places, number, lanes, address(wide), step, address(again))
    np.testing.assert_array_equal(wide[:number, :lanes].T, np.where(inside, x, 0)[:, 2 : 2 + number])
    assert (wide[:, lanes:] == 7).all()
    np.testing.assert_array_equal(again, np.where(inside, x, 5))


def close(y: np.ndarray, expected: np.ndarray, x: np.ndarray, w: np.ndarray, error: float) -> None:
    """Within the predicted error of sums of random numbers as large as these."""
    terms = max(1, w.size)
    scale = np.sqrt(np.mean(np.abs(x) ** 2) * np.mean(np.abs(w) ** 2) * terms)
    assert np.max(np.abs(y - expected), initial=0) <= 16 * error * scale


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_problems(data: st.DataObject) -> None:
    """Against the definition, in whole numbers that leave nothing but the transforms' own rounding."""
    case = data.draw(cases(dtypes=("int64",)))
    dtype = data.draw(st.sampled_from(DTYPES))
    x, w = case.x.astype(dtype), case.w.astype(dtype)
    bias = None if case.bias is None else case.bias.astype(dtype)
    kernel = pc.plan(x, w, **case.keywords).call.problem.kernel
    block = tuple(data.draw(st.sampled_from([n for n in spectra.lengths() if k <= n <= 20])) for k in kernel)
    plan, refusal = None, ""
    try:
        plan = pc.plan(x, w, algorithm=pc.FFT(block, fused=True), **case.keywords)
    except ValueError as error:
        refusal = str(error)
    if plan is None:
        assert "fused fft takes no strides and no dilation" in refusal
        return
    expected = case.expected().astype(float)
    scale = 1 + np.abs(x).max(initial=0) * np.abs(w).max(initial=0) * w.size
    atol = scale * np.finfo(dtype).eps * 20
    np.testing.assert_allclose(plan(x, w, bias), expected, rtol=0, atol=atol)


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "one-channel": ((1, 1, 90, 70), (1, 1, 9, 7), {"padding": 3}),
    "colours": ((2, 60, 50, 3), (7, 7, 1, 3), {"groups": 3, "layout": "NHWC", "padding": "same"}),
    "depthwise-first": ((2, 40, 30, 30), (40, 1, 5, 5), {"groups": 40, "padding": 2}),
    "depthwise-last": ((2, 30, 30, 40), (5, 5, 1, 40), {"groups": 40, "layout": "NHWC", "padding": 2}),
    "multiplier-last": ((2, 30, 30, 20), (5, 5, 1, 60), {"groups": 20, "layout": "NHWC"}),
    "dense-first": ((2, 5, 40, 30), (6, 5, 7, 7), {}),
    "dense-last": ((2, 40, 30, 5), (7, 7, 5, 6), {"layout": "NHWC", "padding": "same"}),
    "flat": ((2, 1, 20, 90), (1, 1, 1, 15), {"padding": (0, 7)}),
    "tall": ((2, 1, 90, 20), (1, 1, 15, 1), {"padding": (7, 0)}),
    "signals": ((5, 2, 300), (2, 2, 31), {"padding": 15}),
    "signal": ((1, 1, 1000), (1, 1, 31), {}),
    "volume": ((1, 1, 30, 20, 25), (1, 1, 5, 7, 3), {"padding": "same"}),
    "thin-volume": ((1, 2, 30, 20, 25), (3, 2, 5, 1, 6), {"padding": "same"}),
    "reflected": ((1, 1, 40, 40), (1, 1, 11, 11), {"padding": 5, "padding_mode": "reflect"}),
    "lopsided": ((1, 1, 40, 40), (1, 1, 11, 11), {"padding": ((9, 0), (0, 10))}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_every_kind(layer: str, dtype: str) -> None:
    """With blocks of every size that plans think of, against direct summation in double precision."""
    (shape, kernel, keywords), rng = LAYERS[layer], np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal(kernel)
    expected = pc.conv(x, w, algorithm="im2col", **keywords)
    x, w = x.astype(dtype), w.astype(dtype)
    problem = pc.plan(x, w, **keywords).call.problem
    for block in (*spectra.sizes(problem.local), None):
        plan = pc.plan(x, w, algorithm=pc.FFT(block, fused=True), **keywords)
        assert "fused" in plan.chosen.algorithm.detail
        y = plan(x, w)
        close(y, expected, x, w, plan.chosen.error)
        assert y.flags.c_contiguous


def test_zeros_around_an_image_let_one_block_hold_it() -> None:
    """What a circular convolution brings round falls on them: 56 pixels and margins of 15 fit a block of 72."""
    p = pc.ConvProblem(1, 1, 1, 1, (56,) * 2, (31,) * 2, (1, 1), (1, 1), ((15, 15),) * 2)
    assert spectra.whole(p) == (72, 72)
    _, axes, _, _ = spectra.form(p, (72, 72), 16)
    assert [[*axis.starts] for axis in axes] == [[0], [0]]
    _, axes, _, _ = spectra.form(p.padded, (72, 72), 16)  # where the margins hold pixels, they do not
    assert [[*axis.starts] for axis in axes] == [[0, 42], [0, 42]]


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = np.ones((1, 1, 40, 40), dtype="float32"), np.ones((1, 1, 5, 5), dtype="float32")

    def refusal(block: Any, image: DTypeLike = "float32", **keywords: Any) -> str:
        with pytest.raises(ValueError, match="cannot run this problem: ") as refused:
            pc.conv2d(x.astype(image), w, algorithm=pc.FFT(block, fused=True), **keywords)
        return str(refused.value)

    assert "fused fft takes no strides and no dilation" in refusal(None, stride=2)
    assert "fused fft takes no strides and no dilation" in refusal((8, 8), dilation=2)
    assert "smaller than the kernel" in refusal((4, 8))
    assert "blocks of 1 lengths" in refusal(8)
    assert "fused fft takes blocks of up to 256 that have two factors of up to 16, not 17" in refusal((17, 8))
    assert "fused fft is compiled for single and double precision, not for complex64" in refusal(None, "complex64")
    monkeypatch.setattr(arrays, "uncompiled", lambda: "needs numba, which is not here")
    make_plan.cache_clear()
    try:
        assert "fused fft needs numba, which is not here" in refusal(None)
        assert (
            "fused" not in pc.plan(x, np.ones((1, 1, 31, 31), dtype="float32"), algorithm="fft").chosen.algorithm.detail
        )
    finally:
        make_plan.cache_clear()


def test_large_kernels_are_convolved_so() -> None:
    """Where their taps are many, and many they are from some fifteen by fifteen on."""
    x = np.ones((1, 1, 512, 512), dtype="float32")
    for k, expected in ((3, False), (31, True)):
        chosen = pc.plan(x, np.ones((1, 1, k, k), dtype="float32"), padding=k // 2).chosen.algorithm
        assert (chosen.name == "fft" and chosen.detail.endswith("fused")) == expected
