"""Winograd's method along one axis: against the definition, and chosen where it ought to be.

On random problems: ``test_compiled.py``.
"""

from __future__ import annotations

import importlib
import math
import re
from itertools import product
from typing import Any

import numpy as np
import pytest
from memory import peak_beside_result
from numba import njit

import polyconv as pc
from polyconv import arrays
from polyconv.algorithms import winograd
from polyconv.algorithms.one_axis import along_one
from polyconv.compiled.microkernel import VECTOR_BYTES, sweep
from polyconv.execution import road
from polyconv.tiling import Tile


@njit
def run_sweep(element, code, a, b, y, places, number, more):
    sweep(element, code, a, b, y, places, number, more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sweeping_kernel_keeps_its_definition(dtype: str) -> None:
    """From zero and on top of what is there, side by side or not; nothing else is written."""
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    shapes = product((1, 3, 7), (1, 4), (0, 4, 12), (False, True), ((5, ()), (1, (0,)), (5, (0,) * 5)))
    for taps, together, number, more, (apart, step) in shapes:
        a, b, y = (rng.integers(0, 9, 1200).astype(dtype) for _ in range(3))
        expected = y.copy()
        for i in range(number):
            there = slice(9 + i * 2 * lanes, 9 + i * 2 * lanes + lanes)
            total = sum(a[4 + i * apart + t] * b[3 + t * 18 : 3 + t * 18 + lanes] for t in range(taps))
            expected[there] = total + (expected[there] if more else 0)
        operands = (arrays.address(a), apart), (arrays.address(b), 18), (arrays.address(y), 2 * lanes)
        run_sweep(a[0], ((0,) * taps, (0,) * together, step), *operands, (4, 3, 9), number, more)
        np.testing.assert_array_equal(y, expected)


def test_what_several_windows_see_is_loaded_once() -> None:
    """Nine taps of four windows that are three apart see eighteen numbers; else they load thirty-six."""
    room = np.zeros(999, np.float32)

    def loads(step: tuple[int, ...]) -> int:
        compiled = njit(run_sweep.py_func)
        operands = ((arrays.address(room), apart) for apart in (3, 16, 16))
        compiled(room[0], ((0,) * 9, (0,) * 4, step), *operands, (0, 0, 0), 0, False)
        (code,) = compiled.inspect_llvm().values()
        return len(re.findall(r"load float, ", code))

    assert loads(()) == 2 * 36  # with more and without
    assert loads((0,) * 3) == 2 * 18


def blocks_of(ndim: int, m: int) -> pc.Algorithm:
    """Blocks of ``m`` outputs along the last axis but one, and of one along all others."""
    return pc.Winograd((*(1,) * (ndim - 2), m, 1), fused=True)


SHAPES: list[tuple[int | tuple[int, ...], int | tuple[int, ...], Any]] = [
    (1, 1, 0),
    (1, 1, "same"),
    (1, 2, "same"),
    (1, (1, 3), 0),
    (2, 1, 0),
    ((2, 1), 1, [(2, 1), (0, 3)]),
    ((1, 3), (2, 1), 1),
    ((2, 1), (1, 2), 2),
]


@pytest.mark.parametrize(("stride", "dilation", "padding"), SHAPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_it_is_the_convolution(layout: str, stride: Any, dilation: Any, padding: Any) -> None:
    """Strides, dilation and margins along either axis, groups, and channels and filters that fill vectors or do not."""
    rng = np.random.default_rng(0)
    some = [(1, 3, 5, (3, 3), 4), (1, 3, 32, (5, 2), 3), (3, 16, 32, (5, 2), 3), (3, 1, 5, (3, 3), 4)]
    for groups, channels, filters, taps, m in some:
        x, w = (
            rng.standard_normal((2, 14, 17, groups * channels)),
            rng.standard_normal((*taps, channels, groups * filters)),
        )
        if layout == "NCHW":
            x, w = np.moveaxis(x, -1, 1).copy(), np.moveaxis(w, (-1, -2), (0, 1)).copy()
        said = {"groups": groups, "stride": stride, "dilation": dilation, "padding": padding, "layout": layout}
        expected = pc.conv(x, w, algorithm="im2col", **said)
        y = pc.conv(x, w, algorithm=blocks_of(2, m), workers=2, **said)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_volumes_and_parts_of_arrays() -> None:
    """Taps on the axes before, beyond the image too; rows that lie apart, and channels that are some of many."""
    rng = np.random.default_rng(0)
    for stride, dilation, padding in ((1, 1, 1), ((2, 1, 1), (2, 1, 1), 2), ((1, 2, 2), 1, 1)):
        x = rng.standard_normal((2, 6, 22, 9, 8))[:, :, ::2, :, 2:7]
        w = rng.standard_normal((3, 3, 2, 5, 4))
        said = {"stride": stride, "dilation": dilation, "padding": padding, "layout": "NDHWC"}
        y, expected = (pc.conv(x, w, algorithm=a, **said) for a in (blocks_of(3, 4), "im2col"))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_tiles_share_a_prepared_kernel() -> None:
    """Whatever their batch, their margins and their size."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 61, 19, 4)), rng.standard_normal((5, 3, 4, 20))
    expected = pc.conv(x, w, layout="NHWC", padding=2, algorithm="im2col")
    plan = pc.plan(x, w, layout="NHWC", padding=2, algorithm=blocks_of(2, 4))
    for tile in (Tile(1, 16), Tile(2, 61)):
        laid = road(plan.call, plan.chosen.algorithm, tile, 2)
        np.testing.assert_allclose(laid(x, *laid.prepare(w, None)), expected, rtol=0, atol=1e-11)


@pytest.mark.skipif(VECTOR_BYTES != 64, reason="needs vectors as long as lines")
def test_results_that_outgrow_caches_are_stored_past_them(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module("polyconv.algorithms.one_axis")
    asked: list[bool] = []

    def outgrows(y: np.ndarray, vector: int) -> bool:
        asked.append(arrays.outgrows(y, vector))
        return asked[-1]

    monkeypatch.setattr(arrays, "_FAR", 0)
    monkeypatch.setattr(module, "outgrows", outgrows)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 30, 31, 3)), rng.standard_normal((3, 3, 3, 40))
    expected = pc.conv(x, w, layout="NHWC", algorithm="im2col")
    y = pc.conv(x, w, layout="NHWC", algorithm=blocks_of(2, 4))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)
    assert asked == [True]


def test_it_holds_no_more_than_it_says() -> None:
    """Rows of the image and of products, and never the transformed image."""
    x, w = np.ones((4, 200, 120, 3), np.float32), np.ones((5, 5, 3, 64), np.float32)
    plan = pc.plan(x, w, layout="NHWC", algorithm=blocks_of(2, 4), workers=2, prepared=True)
    prepared = plan.prepare(w)
    assert peak_beside_result(prepared, x) <= plan.chosen.workspace + 8192 <= x.nbytes // 4


@pytest.mark.parametrize(
    ("m", "kernel", "keywords", "message"),
    [
        ((4, 1), (1, 3), {}, "along one axis has nothing to save where the kernel has one tap along it"),
        ((4, 1), (3, 3), {"stride": 3}, "nothing to save where the kernel has no more taps than the stride along it"),
        ((4, 1), (3, 3), {"stride": 2, "dilation": 2}, "takes no stride and dilation along it at once"),
        ((1, 4, 1), (3, 3), {}, r"was given m=\(1, 4, 1\), 3 numbers, for 2 spatial axes"),
        ((20, 1), (9, 3), {}, "takes at most 24 points along an axis, and this kernel needs 28"),
    ],
)
def test_what_it_refuses(m: tuple[int, ...], kernel: tuple[int, ...], keywords: dict[str, int], message: str) -> None:
    x, w = np.ones((1, 30, 30, 2)), np.ones((*kernel, 2, 2))
    with pytest.raises(ValueError, match=message):
        pc.conv(x, w, layout="NHWC", algorithm=pc.Winograd(m, fused=True), **keywords)


def test_points_are_for_its_axis_alone() -> None:
    """An axis that is not transformed needs none, however many taps it has."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 12, 24, 2)), rng.standard_normal((3, 9, 2, 3))
    y = pc.conv(x, w, layout="NHWC", algorithm=pc.Winograd((2, 1), (0, 1, -1), fused=True))
    np.testing.assert_allclose(y, pc.conv(x, w, layout="NHWC", algorithm="im2col"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("m", "one"), [((4, 1), True), ((1, 2, 1), True), ((4,), False), ((1, 1), False), ((2, 3), False)]
)
def test_which_blocks_are_along_one_axis(m: tuple[int, ...], one: bool) -> None:
    assert along_one(m) == one
    x, w = np.ones((1, *(9,) * len(m), 2)), np.ones((*(3,) * len(m), 2, 2))
    plan = pc.plan(x, w, layout=f"N{'TDHW'[-len(m) :]}C", algorithm=pc.Winograd(m, fused=True))
    way = plan.chosen.algorithm.write.args[0].way  # type: ignore[union-attr]
    assert way == ("one axis" if one else "numba")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "stride", "channels"), [(2, 1, 3), (4, 1, 3), (6, 1, 16), (4, 2, 3), (8, 1, 1)])
def test_predicted_errors_are_found(m: int, stride: int, channels: int, dtype: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).eps > 2.0**-60:
        pytest.skip("nothing wider than float64 here")
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((2, 40, 40, channels)).astype(dtype),
        rng.standard_normal((3, 3, channels, 16)).astype(dtype),
    )
    plan = pc.plan(x, w, layout="NHWC", stride=stride, algorithm=blocks_of(2, m))
    wide = np.float64 if dtype == "float32" else np.longdouble
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(wide), (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    exact = np.einsum("nhwcij,ijck->nhwk", windows, w.astype(wide))
    found = math.sqrt(np.mean((plan(x, w) - exact) ** 2) / np.mean(exact**2))
    assert plan.chosen.error / 4 <= found <= 4 * plan.chosen.error


@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((8, 150, 150, 3), (3, 3, 3, 16), {}),
        ((8, 224, 224, 3), (7, 7, 3, 64), {"stride": 2, "padding": 3}),
        ((4, 227, 227, 3), (11, 11, 3, 96), {"stride": 4}),
    ],
)
def test_it_is_chosen_for_few_channels(x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, int]) -> None:
    """By default, and not where every rounding counts."""
    image, kernel = np.ones(x, np.float32), np.ones(w, np.float32)
    assert pc.plan(image, kernel, layout="NHWC", prepared=True, **keywords).chosen.algorithm.detail.endswith(
        "x1, fused"
    )
    strict = pc.plan(image, kernel, layout="NHWC", prepared=True, accuracy="strict", **keywords)
    assert strict.algorithm == "direct"


def test_variants_are_of_several_sizes() -> None:
    x, w = np.ones((2, 20, 20, 3), np.float32), np.ones((3, 3, 3, 8), np.float32)
    plan = pc.plan(x, w, layout="NHWC")
    target, problem = plan.target, plan.call.problem
    details = [a.detail for a in winograd.WINOGRAD.variants(problem, target)]  # type: ignore[misc]
    assert [d for d in details if "x1" in d] == [f"m={m}x1, fused" for m in range(2, 9)]
