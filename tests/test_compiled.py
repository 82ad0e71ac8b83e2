"""Compiled loops: the micro-kernel against its definition, every order of loops, and a world without numba."""

from __future__ import annotations

import ctypes
import importlib
import math
import mmap
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain, product
from operator import add, mul, sub
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, typeof
from numba.core.dispatcher import Dispatcher
from strategies import Case, cases

import polyconv as pc
from polyconv import arrays, execution, kernel_gradient, planning, pool, tiling
from polyconv.algorithms import direct, fused, sliding
from polyconv.compiled import butterflies, codelets, kept, resting
from polyconv.compiled.codelets import Matrices, transform
from polyconv.compiled.microkernel import VECTOR_BYTES, copy, multiply, slide
from polyconv.execution import road
from polyconv.padding import pad
from polyconv.planning import make_plan
from polyconv.tiling import Tile

DTYPES = ("float32", "float64", "int32", "int64", "uint64")


@njit
def run_multiply(element, code, a, b, y, *operands):
    multiply(element, code, a, b, y, *operands)


@njit
def run_slide(element, code, a, b, y, *operands):
    slide(element, code, a, b, y, *operands)


@njit
def run_copy(element, source, begin, target, start, number, apart):
    copy(element, source, begin, target, start, number, apart)


def numbers(rng: np.random.Generator, size: int | tuple[int, ...], dtype: str) -> np.ndarray:
    return rng.integers(0, 9, size).astype(dtype)  # sums of them are exact in every dtype


def before_the_abyss(size: int, dtype: str) -> np.ndarray:
    """An array that ends where memory does: who reads on ends the process."""
    page, number = mmap.PAGESIZE, size * np.dtype(dtype).itemsize
    pages = -(-number // page)
    memory = np.frombuffer(mmap.mmap(-1, (pages + 1) * page), np.uint8)
    none = 0
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(arrays.address(memory) + pages * page), page, none) == 0
    return memory[pages * page - number : pages * page].view(dtype)


@pytest.mark.parametrize("scalars", [(), (0,)], ids=["vectors", "scalars"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_micro_kernel_keeps_its_definition(dtype: str, scalars: tuple[int, ...]) -> None:
    """Whole blocks and parts of blocks, from zero and on top of what is there; nothing else is written."""
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for rows, vectors in ((1, 1), (3, 2), (6, 1)):
        wide = vectors * lanes
        for number, some, begin, more in product(
            range(1, rows + 1), (1, wide - 1, wide, wide + 3), (0, 2), (False, True)
        ):
            taps, first = 5, 1
            a, b, y = numbers(rng, 900, dtype), numbers(rng, 900, dtype), numbers(rng, 900, dtype)
            a_rows, y_rows = (rng.permutation(8)[:7] * step for step in (11, 90))
            a_taps, b_taps = (rng.integers(0, 300, taps) for _ in range(2))
            expected = y.copy()
            for m, i in product(range(number), range(min(some, wide))):
                left, right = 7 + a_rows[first + m] + a_taps[begin:] + (0 if scalars else i), 3 + b_taps[begin:] + i
                place = 5 + y_rows[first + m] + i
                expected[place] = (a[left] * b[right]).sum() + (y[place] if more else 0)
            operands = (arrays.address(a), a_rows, a_taps), (arrays.address(b), b_taps), (arrays.address(y), y_rows)
            code = (0,) * rows, (0,) * vectors, scalars, (0,), ()
            run_multiply(a[0], code, *operands, (7, 3, 5), first, number, some, begin, taps, more)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("layout", "x", "w", "keywords"),
    [
        ("NHWC", (2, 9, 20, 5), (3, 3, 5, 32), {"padding": 1}),
        ("NHWC", (2, 9, 20, 3), (3, 3, 3, 8), {}),
        ("NHWC", (2, 9, 11, 16), (3, 3, 1, 16), {"groups": 16, "padding": 1}),
        ("NHWC", (2, 9, 11, 8), (3, 3, 4, 32), {"groups": 2, "stride": 2}),
        ("NHWC", (2, 5, 11, 300), (1, 1, 300, 16), {}),
        ("NCHW", (2, 3, 9, 18), (3, 3, 3, 3), {}),
        ("NCHW", (2, 3, 9, 18), (3, 3, 3, 24), {}),
        ("NCHW", (2, 4, 9, 18), (3, 3, 1, 4), {"groups": 4}),
        ("NCHW", (1, 1, 40, 34), (3, 3, 1, 1), {}),
    ],
)
def test_results_that_outgrow_caches_are_stored_past_them(
    layout: str, x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, by every order of loops and every number of threads, wherever vectors are whole lines."""
    rng = np.random.default_rng(0)
    image, kernel = numbers(rng, x, "float64"), numbers(rng, w, "float64")
    call = {"layout": layout, "kernel_layout": "HWIO", "algorithm": direct.LOOPS, **keywords}
    expected = pc.conv2d(image, kernel, **{**call, "algorithm": "im2col"})
    asked: list[bool] = []

    def outgrows(y: np.ndarray, vector: int) -> bool:
        asked.append(arrays.outgrows(y, vector))
        return asked[-1]

    monkeypatch.setattr(arrays, "_FAR", 0)
    monkeypatch.setattr(direct, "outgrows", outgrows)
    monkeypatch.setattr(sliding, "outgrows", outgrows)
    for workers in (1, 2):
        np.testing.assert_array_equal(pc.conv2d(image, kernel, workers=workers, **call), expected)
    assert x[-1] == 300 or (asked and all(asked) == (VECTOR_BYTES == 64))  # of 300 taps, some are added to others


@pytest.mark.parametrize("length", [128, 136])
def test_parts_of_signals_that_outgrow_caches(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether whole vectors make them up or not: what is stored past the caches has to begin at a line of them."""
    monkeypatch.setattr(arrays, "_FAR", 0)
    rng = np.random.default_rng(0)
    x, w = numbers(rng, (1, 3, 258), "float32"), numbers(rng, (4, 3, 3), "float32")
    plan = pc.plan(x, w, algorithm=direct.LOOPS)
    assert direct.over(plan.call.problem) == "positions"
    laid = road(plan.call, plan.chosen.algorithm, Tile(1, length), 1)
    np.testing.assert_array_equal(laid(x, *laid.prepare(w, None)), pc.conv(x, w, algorithm="einsum"))


@pytest.mark.skipif(os.name != "posix", reason="has memory protected by POSIX's means")
@pytest.mark.parametrize(("groups", "channels", "filters"), [(1, 1, 1), (3, 1, 1), (1, 2, 5), (1, 3, 40)])
def test_nothing_beyond_an_image_is_read(groups: int, channels: int, filters: int) -> None:
    """Rows that vectors fill and rows that they do not, with and without strides; memory ends with the last."""
    rng = np.random.default_rng(0)
    for width, stride, padding, dtype in product((3, 17, 40, 67), (1, 2, 3), (0, 1), ("float32", "float64")):
        x = before_the_abyss(2 * groups * channels * 5 * width, dtype).reshape(2, groups * channels, 5, width)
        x[...] = numbers(rng, x.shape, dtype)
        w = numbers(rng, (groups * filters, channels, 3, 3), dtype)
        keywords: dict[str, Any] = {"groups": groups, "stride": stride, "padding": padding}
        y = pc.conv(x, w, algorithm=direct.LOOPS, **keywords)
        np.testing.assert_array_equal(y, pc.conv(x.copy(), w, algorithm="einsum", **keywords))


@pytest.mark.skipif(VECTOR_BYTES != 64 or platform.machine() != "x86_64", reason="needs vectors as long as lines")
def test_stores_past_the_caches_are_the_processors_own() -> None:
    """Nothing in a result tells: so the code must."""
    for past, expected in (((), False), ((0,), True)):
        a, y = np.ones(64, dtype=np.float32), arrays.aligned((4096,), np.float32)
        image, kernel, result = map(arrays.address, (a, a, y))
        one, none, places = (0,), (), (0, 0, 0)
        blocks = one * 2, one, one, one, past
        run_multiply(a[0], blocks, (image, 1, 1), (kernel, 16), (result, 16), places, 0, 2, 16, 0, 2, False)
        assert (y[:32] == 2).all()
        table = np.zeros(1, np.int64)
        lines = one, one * 2, one, one, none, none, none, one, past
        operands = (image, 0, 1, 1, table, None), (kernel, 0, 16, table), (result, 0, 16)
        run_slide(a[0], lines, *operands, places, 16, 0, 1, 3, (0,) * 7)
        assert (y[:32] == 3).all()
        for run, of in ((run_multiply, blocks), (run_slide, lines)):
            code = next(code for types, code in run.inspect_asm().items() if types[1] == typeof(of))
            assert ("movnt" in code) == expected


@pytest.mark.skipif(VECTOR_BYTES != 64 or platform.machine() != "x86_64", reason="needs 32 registers for vectors")
@pytest.mark.parametrize("element", [np.float32(0), np.float64(0)], ids=["single", "double"])
def test_sums_stay_in_registers(element: Any) -> None:
    """No loop over taps stores a vector: compilers that load much ahead of its use did, two to four times as slowly."""
    table, memory = np.zeros(25, np.int64), np.zeros(100, element.dtype)
    room = arrays.address(memory)
    alike = [(6, 4), (9, 3), (14, 2), (24, 1)]
    apart = {1: alike, 2: [(5, 4), (8, 3), (12, 2), (24, 1)], 3: [(4, 4), (6, 3), (10, 2)], 4: [(3, 4), (5, 3), (8, 2)]}
    for step, (rows, vectors) in chain.from_iterable(product([step], blocks) for step, blocks in apart.items()):
        block = (0,) * rows, (0,) * vectors, (0,), (0,) * step, ()
        operands = (room, table, table), (room, table, table), (room, table), (0, 0, 0), 0, rows, 1, 0, 1, False
        assert_loops_store_nothing(run_multiply, rows * vectors, element, block, *operands, None, (0,) * 4)
        if step == 1:
            operands = (room, table, table), (room, table), *operands[2:]
            assert_loops_store_nothing(run_multiply, rows * vectors, element, block, *operands)
    for lengths, wide in (
        ((1, 25, 1, 3, 0, 1), (0, 1)),
        ((1, 14, 1, 3, 0, 0), (1, 1)),
        ((1, 13, 1, 3, 0, 2), (1, 1)),
        ((3, 6, 3, 3, 1, 1), (1, 1)),
        ((2, 9, 3, 3, 1, 1), (1, 1)),
        ((3, 6, 3, 3, 2, 2), (1, 1)),
        ((1, 13, 1, 3, 0, 2), (1, 0)),
        ((1, 13, 1, 3, 0, 2), (2, 0)),
        ((1, 14, 1, 1, 0, 0), (3, 0)),
    ):
        block = (*((0,) * length for length in (*lengths, *wide)), ())
        columns = None if wide[1] else table
        operands = (room, 0, 0, 0, table, columns), (room, 0, 0, table), (room, 0, 0), (0, 0, 0)
        assert_loops_store_nothing(run_slide, math.prod(lengths[:4]), element, block, *operands, 1, 0, 1, 3, (0,) * 7)


def assert_loops_store_nothing(run: Any, products: int, *args: Any) -> None:
    """Of those loops that multiply so many vectors, or more, and hold no other loops."""
    alone = njit(run.py_func)
    alone(*args)
    (code,) = alone.inspect_asm().values()
    inner = re.findall(r"^(\.L\w+):\n((?:(?!\.L\w+:).*\n)*?)\tj\w+\t\1$", code, re.MULTILINE)
    loops = [body for _, body in inner if len(re.findall(r"\tvf\w*madd", body)) >= products]
    assert loops
    for body in loops:
        assert not re.findall(r"\tvmov\w+\t%[xyz]mm\d+, [^%]*\(", body)


def test_threads_wait_awake_for_jobs() -> None:
    """As long as nothing happens, for a while and no longer; who rests leaves for a job, though no loop begins."""
    posted, ended = resting.known()
    resting.rest(resting.seat(), posted - 1, 10, True)
    resting.end()
    assert resting.known() == (posted, ended + 1)
    assert resting.awaited(ended)
    assert not resting.awaited(ended + 1)


@pytest.mark.parametrize("wide", [((0,), (0,)), ((0,), ()), ((), (0,))], ids=["vectors", "weights", "pixels"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sliding_kernel_keeps_its_definition(wide: tuple[tuple[int, ...], ...], dtype: str) -> None:
    """Windows that share pixels and windows that do not, whole vectors and parts, taps that several divide or not.

    Numbers for all lanes are of the kernel, or of the image.
    """
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    wide_a, wide_b = wide
    along = [(1, 1, 0), (5, 1, 0), (4, 3, 1), (3, 5, 1), (1, 2, 1), (5, 3, 2), (3, 2, 3), (2, 2, 2)]
    both = [(3, 2, 3, 3, 1, 1), (2, 3, 2, 3, 1, 1), (2, 2, 3, 3, 2, 2), (2, 1, 2, 3, 1, 2), (2, 2, 1, 1, 1, 0)]
    blocks = [(1, rows, 1, several, 0, step) for rows, several, step in along] + both
    for lengths, taps, some in product(blocks, (0, 3, 5, 7), (1, lanes - 1, lanes, lanes + 3)):
        high, rows, tall, _, apart, step = lengths
        a, b, y = (numbers(rng, 1500, dtype) for _ in range(3))
        a_lines, b_lines = (rng.integers(0, 300, 6) for _ in range(2))
        down, tap, b_down, b_tap, y_down, y_row, begin, end = 113, 20, 151, 21, 400, 80, 1, 5
        row = step * tap if step else 33
        expected = y.copy()
        for k, m, i in product(range(high), range(rows), range(min(some, lanes))):
            across, steps = np.arange(tall)[:, None], np.arange(taps)
            left = 7 + (k * apart + across) * down + m * row + steps * tap + (i if wide_a else 0)
            right = 3 + across * b_down + steps * b_tap + (i if wide_b else 0)
            left, right = (table[begin:end, None, None] + at for table, at in ((a_lines, left), (b_lines, right)))
            expected[5 + k * y_down + m * y_row + i] = (a[left] * b[right]).sum()
        pixels, kernel = (arrays.address(a), down, row, tap, a_lines, None), (arrays.address(b), b_down, b_tap, b_lines)
        code = (*((0,) * length for length in lengths), *wide, ())
        result = arrays.address(y), y_down, y_row
        run_slide(a[0], code, pixels, kernel, result, (7, 3, 5), some, begin, end, taps, (0,) * 7)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_micro_kernel_takes_what_is_beside_a_row_for_zeros(dtype: str) -> None:
    """Vectors inside a row and across either end, and far outside; what lies there in memory is not to be seen.

    So it is of those that hold every second pixel, or further ones.
    """
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    columns, weights = np.asarray([9, -3, 0, 4, -1, 8]), numbers(rng, 60, dtype)
    rows, taps = 3, np.asarray([0, 1000, 300, 300, 600, 0]) + columns
    for apart, begin, number in product((1, 2, 3, 5), (-lanes - 9, -5, 0, 3, 6, lanes, -1), (2 * lanes, lanes - 1)):
        width = 2 * lanes * apart + 3
        column, far = begin % width if begin == -1 else begin, np.arange(number) * apart
        b = np.full(2200, 77, dtype)
        for line in (500, 800, 1100):
            b[line : line + width] = numbers(rng, width, dtype)
        around = np.pad(np.stack([b[500 + 300 * row :][:width] for row in range(3)]), ((0, 0), (99, 399)))
        expected, y = np.zeros((2, 400), dtype)
        for m, tap in product(range(rows), range(2, 5)):
            seen = around[(taps - columns)[tap] // 300, 99 + column + columns[tap] + far]
            expected[10 + 100 * m :][:number] += weights[5 + 2 * m + 7 * tap] * seen
        last = column + columns[2:5].max() + (2 * lanes - 1) * apart
        inside = column + columns[2:5].min() >= 0 and last < width
        operands = (arrays.address(weights), 2, 7), (arrays.address(b), taps, columns), (arrays.address(y), 100)
        code, frame = ((0,) * rows, (0, 0), (0,), (0,) * apart, ()), (column, width, not inside, 300)
        run_multiply(b[0], code, *operands, (5, 500 + column, 10), 0, rows, number, 2, 5, False, None, frame)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sliding_kernel_takes_what_is_beside_a_plane_for_zeros(dtype: str) -> None:
    """Blocks inside and across every edge and corner, and far outside; what lies there in memory is not to be seen.

    So it is where neighbouring outputs see every second pixel, or further ones.
    """
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    height, before, rows = 6, 700, 3
    for wide, step, places, some in product((1, 2, 3), (0, 1, 2), (-9, -2, -1, 0, 1, 3, 5, 9), (lanes, 3)):
        width, far = lanes * wide + 5, np.arange(some) * wide
        plane, b = numbers(rng, (height, width), dtype), numbers(rng, 200, dtype)
        a = np.full(before + plane.size + 700, 77, dtype)
        a[before : before + plane.size] = plane.ravel()
        row = step * width if step else 3 * width
        for taps, column in product((1, 2, 3), (-lanes - 4, -3, 0, 4, 6, width - 1)):
            moves, b_lines = np.asarray([5, 0, 2]), np.asarray([11, 29, 3])
            expected = np.zeros(400, dtype)
            around = np.pad(plane, ((30, 30), (5 * lanes, 9 * lanes)))
            for m, line, tap in product(range(rows), (1, 2), range(taps)):
                seen = around[30 + places + m * row // width + tap, 5 * lanes + column + moves[line] + far]
                expected[20 + m * 60 : 20 + m * 60 + some] += seen * b[7 + b_lines[line] + 31 * tap]
            y = np.zeros(400, dtype)
            inside = places >= 0 and places + (rows - 1) * row // width + taps <= height
            edge = not (inside and column >= 0 and column + 2 + (lanes - 1) * wide < width)
            pixels, weights = (arrays.address(a), 0, row, width, moves, moves), (arrays.address(b), 0, 31, b_lines)
            code = (*((0,) * length for length in (1, rows, 1, 2, 0, step, wide)), (), ())
            at, frame = before + places * width + column, (column, width, places, row // width, 1, height, edge)
            run_slide(a[0], code, pixels, weights, (arrays.address(y), 0, 60), (at, 7, 20), some, 1, 3, taps, frame)
            np.testing.assert_array_equal(y, expected)


@settings(max_examples=100, deadline=None)
@given(
    size=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    data=st.data(),
    dtype=st.sampled_from(["float32", "float64", "int32"]),
    images=st.integers(1, 3),
    groups=st.integers(1, 3),
    of_group=st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 5), (2, 17)]),
)
def test_margins_are_masked_where_space_is_innermost(
    size: list[int], data: st.DataObject, dtype: str, images: int, groups: int, of_group: tuple[int, int]
) -> None:
    """However wide they are; nothing beside the image is seen, and no copy with zeros around it is made.

    But for panels, into which windows are unrolled.
    """
    channels, filters = of_group
    ndim = len(size)
    each = {
        "kernel": st.integers(1, 5), "stride": st.integers(1, 4), "dilation": st.integers(1, 3),
        "padding": st.tuples(st.integers(0, 50), st.integers(0, 7)),
    }  # fmt: skip
    kernel, stride, dilation, padding = (
        data.draw(st.lists(of, min_size=ndim, max_size=ndim), label=name) for name, of in each.items()
    )
    for axis in range(ndim):  # there has to be an output
        low, high = padding[axis]
        padding[axis] = (low, high + max(0, (kernel[axis] - 1) * dilation[axis] + 1 - size[axis] - low - high))
    rng = np.random.default_rng(0)
    room = np.full((images, groups * channels, *(length + 2 for length in size)), 99, dtype)
    x = room[(..., *(slice(1, -1),) * ndim)]
    x[...] = numbers(rng, x.shape, dtype)
    w = numbers(rng, (groups * filters, channels, *kernel), dtype)
    keywords: dict[str, Any] = {"groups": groups, "stride": stride, "dilation": dilation, "padding": padding}
    expected = pc.conv(x, w, algorithm="einsum", **keywords)
    for workers in (1, 2):
        plan = pc.plan(x, w, algorithm=direct.LOOPS, workers=workers, **keywords)
        masked = direct.over(plan.call.problem) != "panels"
        copied = AssertionError("a copy with zeros around it was made") if masked else pad
        with (
            mock.patch.object(execution, "pad", side_effect=copied),
            mock.patch.object(tiling, "pad", side_effect=copied),
        ):
            y = plan(x, w)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, [(2, 0), (0, 1)]])
def test_depthwise_kernels_slide_along_two_axes(stride: Any, padding: Any) -> None:
    """In images that blocks fill and that they do not, and of volumes along the last two; exactly, of whole numbers."""
    rng, heights = np.random.default_rng(0), set()
    for size, taps in (((9, 12), (3, 3)), ((4, 30), (3, 2)), ((3, 9, 10), (2, 3, 3)), ((30, 3), (3, 3))):
        ndim = len(size)
        layout = "N" + "TDHW"[-ndim:] + "C"
        keywords = {"stride": stride, "padding": padding} if ndim == 2 else {"padding": 1}
        x, w = numbers(rng, (2, *size, 40), "float32"), numbers(rng, (*taps, 1, 40), "float32")
        plan = pc.plan(x, w, layout=layout, groups=40, algorithm="direct", **keywords)
        heights.add(sliding.block(plan.call.problem.local, 32, 16)[0].high)
        expected = pc.conv(x, w, layout=layout, groups=40, algorithm="depthwise", **keywords)
        for workers in (1, 2):
            options = {"layout": layout, "groups": 40, "algorithm": "direct", "workers": workers}
            np.testing.assert_array_equal(pc.conv(x, w, **options, **keywords), expected)
    assert max(heights) > 1


@settings(max_examples=150, deadline=None)
@given(cases(dtypes=("int64",), max_terms=600))
def test_the_kernels_gradient_as_sums_is_that_by_convolution(case: Case) -> None:
    """Exactly, whatever lies where in memory, and whichever thread takes which part."""
    y = pc.conv(case.x, case.w, **case.keywords)
    dy = np.random.default_rng(0).integers(-9, 10, y.shape)
    expected = pc.conv_weight_grad(case.x, dy, case.w.shape, algorithm="im2col", **case.keywords)
    ways = []

    def quickest(*args: Any) -> planning.Way | None:
        way = planning.kernel_gradient(*args)
        ways.append(way)
        return way and way._replace(seconds=0.0)

    for workers in (1, 2):
        kernel_gradient._choice.cache_clear()
        with mock.patch.object(kernel_gradient, "kernel_gradient", quickest), mock.patch.object(pool, "SECONDS", -9.0):
            found = pc.conv_weight_grad(case.x, dy, case.w.shape, workers=workers, **case.keywords)
        np.testing.assert_array_equal(found, expected)
    kernel_gradient._choice.cache_clear()
    if y.size and case.w.size:
        assert [way.workers for way in ways] in ([1, 1], [1, 2])


def test_code_is_kept_under_a_stamp_of_all_sources(tmp_path: Path) -> None:
    """Of this folder's: functions are made of each other's code, and numba looks at the file of each alone."""
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("one = 1")
    before = kept.stamp(tmp_path)
    assert kept.stamp(tmp_path) == before
    (tmp_path / "b.py").write_text("one = 2")
    assert kept.stamp(tmp_path) != before
    here = Path(kept.__file__).parent
    modules = [importlib.import_module(f"polyconv.compiled.{path.stem}") for path in here.glob("[!_]*.py")]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, Dispatcher)}
    ours = [each for each in found if each.__module__.startswith("polyconv.") and each._cache.cache_path]
    assert len(ours) > 20
    for each in ours:
        assert each.py_func.__qualname__.endswith(kept.stamp(here))
    assert kept.stamp(here) in butterflies._transform.__qualname__


def test_an_integer_stands_for_the_table_of_its_multiples() -> None:
    rng = np.random.default_rng(0)
    a, b = numbers(rng, 900, "float32"), numbers(rng, 900, "float32")
    found = []
    for tables in ((3, 5, 7, 40), tuple(np.arange(9) * step for step in (3, 5, 7, 40))):
        y = np.zeros(400, dtype="float32")
        a_rows, a_taps, b_taps, y_rows = tables
        operands = (arrays.address(a), a_rows, a_taps), (arrays.address(b), b_taps), (arrays.address(y), y_rows)
        run_multiply(a[0], ((0,) * 4, (0,) * 2, (0,), (0,), ()), *operands, (0, 0, 0), 1, 3, 20, 0, 6, False)
        found.append(y)
    np.testing.assert_array_equal(*found)
    assert found[0].any()


@pytest.mark.skipif(os.name != "posix", reason="has memory protected by POSIX's means")
@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_write_what_they_should_and_nothing_else(dtype: str) -> None:
    """From elements side by side and further apart, and from such as have no memory behind them."""
    for number, apart in product((0, 1, 7, 16, 33), (1, 2, 3, 4, 16, 19)):
        source, target = before_the_abyss(5 + max(0, (number - 1) * apart + 1), dtype), np.zeros(60, dtype)
        source[...] = np.arange(source.size)
        run_copy(source[0], arrays.address(source), 5, arrays.address(target), 3, number, (0,) * apart)
        np.testing.assert_array_equal(target, np.pad(source[5::apart][:number], (3, 57 - number)))


# Shapes that send direct convolution through each of its loops.
SHAPES = {
    "filters": ((2, 9, 11, 5), (3, 2, 5, 37), {"layout": "NHWC"}),
    "filters, groups": ((2, 9, 11, 6), (3, 1, 2, 33), {"layout": "NHWC", "groups": 3}),
    "lines, filters": ((2, 9, 31, 3), (2, 5, 3, 7), {"layout": "NHWC"}),
    "lines, filters and groups": ((2, 9, 11, 6), (3, 3, 2, 21), {"layout": "NHWC", "groups": 3}),
    "lines, channels": ((2, 9, 11, 21), (3, 2, 1, 21), {"layout": "NHWC", "groups": 21}),
    "lines, long": ((2, 40, 60, 17), (3, 9, 1, 17), {"layout": "NHWC", "groups": 17}),
    "lines, planes": ((2, 5, 9, 40), (5, 1, 3, 4), {"groups": 5}),
    "lines, high planes": ((1, 3, 60, 20), (3, 1, 11, 2), {"groups": 3}),
    "lines, one channel": ((2, 33, 20, 1), (3, 4, 1, 1), {"layout": "NHWC"}),
    "positions": ((2, 3, 9, 70), (7, 3, 3, 4), {}),
    "positions, groups": ((2, 6, 9, 40), (4, 3, 3, 4), {"groups": 2}),
    "panels": ((2, 3, 9, 8), (80, 3, 3, 4), {}),
    "panels, groups": ((2, 6, 9, 7), (34, 3, 3, 2), {"groups": 2}),
}


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_direct_in_every_order_of_loops(name: str, stride: int, dilation: int) -> None:
    x_shape, w_shape, keywords = SHAPES[name]
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, x_shape), rng.integers(-9, 9, w_shape)
    keywords = {**keywords, "stride": stride, "dilation": dilation, "padding": (1, 2)}
    plan = pc.plan(x, w, algorithm=direct.LOOPS, **keywords)
    wide = plan.call.problem.output_size[-1] > 16
    known = {"positions": wide, "positions, groups": wide}
    if known.get(name, stride == dilation == 1 or "filters" not in name):
        assert direct.over(plan.call.problem.padded) == name.partition(",")[0]
    letters, groups = keywords.get("layout", "NCHW"), keywords.get("groups", 1)
    said = {"stride": (stride,) * 2, "dilation": (dilation,) * 2, "padding": ((1, 1), (2, 2)), "groups": groups}
    kernel_layout = "HWIO" if letters == "NHWC" else "OIHW"
    expected = reference.convolve(x, w, layout=letters, kernel_layout=kernel_layout, **said).astype("int64")
    for dtype in ("int64", "float32", "float64"):
        y = pc.conv(x.astype(dtype), w.astype(dtype), algorithm=direct.LOOPS, **keywords)
        np.testing.assert_array_equal(y, expected)  # whole numbers this small are exact in all


def test_lines_of_a_plane_may_lie_at_one_place() -> None:
    """Views whose steps are zero: the masks of margins go by which line it is, and not by where it lies."""
    line = numbers(np.random.default_rng(0), 40, "float32")
    for shape, taps in (((1, 2, 30, 40), (3, 3)), ((1, 2, 5, 20, 40), (2, 3, 3)), ((1, 2, 1, 40), (1, 3))):
        for channels, filters in ((1, 2), (2, 3)):
            x, w = np.broadcast_to(line, shape), np.ones((filters, channels, *taps), "float32")
            keywords: dict[str, Any] = {"groups": 2 // channels, "padding": 1}
            expected = pc.conv(x.copy(), w, algorithm="einsum", **keywords)
            np.testing.assert_array_equal(pc.conv(x, w, algorithm=direct.LOOPS, **keywords), expected)


@pytest.mark.parametrize("stride", [1, 2, 20])
def test_parts_that_have_no_pixels(stride: int) -> None:
    """An image without columns, or rows, but with margins; and tiles that lie in margins altogether."""
    w = np.ones((2, 1, 3), "float32")
    for shape in ((2, 2, 40, 0), (2, 2, 0, 40), (2, 2, 0)):
        x = np.zeros(shape, "float32")
        kernel = np.ones((2, 1, *(3,) * (x.ndim - 2)), "float32")
        for filters, groups in ((kernel, 2), (np.repeat(kernel, 2, axis=1), 1)):
            keywords: dict[str, Any] = {"stride": stride, "padding": 19, "groups": groups}
            y = pc.conv(x, filters, algorithm=direct.LOOPS, **keywords)
            np.testing.assert_array_equal(y, pc.conv(x, filters, algorithm="im2col", **keywords))
            assert y.size
            assert not y.any()
    x = numbers(np.random.default_rng(0), (1, 2, 8), "float32")
    plan = pc.plan(x, w, algorithm=direct.LOOPS, stride=stride, padding=[(300, 300)], groups=2)
    laid = road(plan.call, plan.chosen.algorithm, Tile(1, 20), 1)
    expected = pc.conv(x, w, algorithm="einsum", stride=stride, padding=[(300, 300)], groups=2)
    np.testing.assert_array_equal(laid(x, *laid.prepare(w, None)), expected)


@pytest.mark.parametrize("stride", [15, 16, 17, 40, 100_000, 2**31 - 1])
@pytest.mark.parametrize(("groups", "channels", "filters"), [(1, 1, 1), (3, 1, 1), (2, 3, 5), (1, 1, 70)])
def test_outputs_of_planes_may_see_pixels_far_apart(stride: int, groups: int, channels: int, filters: int) -> None:
    """In registers, or brought together in memory; nothing grows with how far that is."""
    rng = np.random.default_rng(stride)
    x, w = (
        numbers(rng, (2, groups * channels, 9, 300), "float32"),
        numbers(rng, (groups * filters, channels, 3, 4), "float32"),
    )
    for dilation, padding in ((1, 0), (5, 30)):
        keywords = {"stride": (2, stride), "dilation": (1, dilation), "padding": (1, padding), "groups": groups}
        y = pc.conv(x, w, algorithm=direct.LOOPS, **keywords)
        np.testing.assert_array_equal(y, pc.conv(x, w, algorithm="einsum", **keywords))


def test_tables_of_rows_are_as_long_as_the_kernel() -> None:
    """However many runs of outputs see other taps than their neighbours: a plan's workspace counts no more."""
    p = pc.plan(
        np.ones((1, 16, 16, 16, 20), "float32"), np.ones((4, 16, 11, 11, 11), "float32"), padding=5
    ).call.problem
    strides = direct.memory(np.empty((1, 1, 16, 16, 16, 20), "float32"))[1]
    told = direct._rows(p, "positions", strides, strides, 32, np)
    tables = [table for table in (*told.x, *told.y, *told.rest) if isinstance(table, np.ndarray)]
    assert sum(table.nbytes for table in tables) < 3 * 8 * 16 * 11**3 + 100_000


@pytest.mark.parametrize("first", [8, 50])
def test_narrow_parts_of_images_have_their_margins_masked(first: int) -> None:
    """Blocks of a dataset, the one too narrow for vectors and the other not, share a kernel that either prepared."""
    da = pytest.importorskip("dask.array")
    x, w = (numbers(np.random.default_rng(0), shape, "float32") for shape in ((2, 3, 20, 58), (5, 3, 3, 3)))
    blocks = da.from_array(x, chunks=(1, 3, 20, (first, 58 - first)))
    expected = pc.conv(x, w, algorithm="einsum", padding=1)
    np.testing.assert_array_equal(pc.conv(blocks, w, algorithm=direct.LOOPS, padding=1).compute(), expected)
    line, kernel = x[0, :, 0], w[..., 0]
    plan = pc.plan(line[None], kernel, algorithm=direct.LOOPS, padding=1)
    laid = road(plan.call, plan.chosen.algorithm, Tile(1, first), 1)
    found = laid(line[None], *laid.prepare(kernel, None))
    np.testing.assert_array_equal(found, pc.conv(line[None], kernel, algorithm="einsum", padding=1))


def test_long_sums_are_taken_in_parts() -> None:
    """More taps than are taken at a time, more positions than stay near."""
    rng = np.random.default_rng(0)
    for layout, x_shape, w_shape in (
        ("NHWC", (1, 25, 25, 50), (3, 3, 50, 20)),
        ("NCHW", (1, 50, 25, 25), (20, 50, 3, 3)),
    ):
        x, w = rng.integers(-9, 9, x_shape).astype("float64"), rng.integers(-9, 9, w_shape).astype("float64")
        y, expected = (pc.conv(x, w, layout=layout, algorithm=name) for name in (direct.LOOPS, "im2col"))
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda x: x[:, ::-1], lambda x: np.repeat(x, 2, -1)[..., ::2]])
@pytest.mark.parametrize("algorithm", ["direct", direct.LOOPS, "winograd"], ids=["direct", "loops", "winograd"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_arrays_however_they_lie_in_memory(make, algorithm: Any, layout: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 16, 18, 20)), rng.standard_normal((3, 3, 20, 4))
    w = w if layout == "NHWC" else np.ascontiguousarray(w[:, :, :16].transpose(3, 2, 0, 1))
    y = pc.conv(make(x), make(w), layout=layout, algorithm=algorithm)
    plain = pc.conv(np.ascontiguousarray(make(x)), np.ascontiguousarray(make(w)), layout=layout, algorithm="im2col")
    np.testing.assert_allclose(y, plain, rtol=0, atol=1e-11)


def test_arrays_that_are_not_aligned_or_not_to_be_written() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 4, 12, 20)), rng.standard_normal((20, 4, 3, 3))
    crooked = np.frombuffer(b"-" + x.tobytes(), dtype="uint8")[1:].view("float64").reshape(x.shape)
    assert not crooked.flags.aligned
    assert not crooked.flags.writeable
    for name in ("direct", "winograd"):
        np.testing.assert_array_equal(pc.conv(crooked, w, algorithm=name), pc.conv(x, w, algorithm=name))


# -- Winograd's method in one pass ---------------------------------------------------------------------------


@njit
def run_transform(element, matrices, *operands):
    transform(element, matrices, *operands)


MATRICES = {
    "BT of F(4, 3)": ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0),
                      (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
    "AT of F(4, 3)": ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    "nothing": ((0, 0), (0, 0), (0, 0)),
    "alike twice": ((1, 2, 3), (1, -2, 3), (-1, 2, -3), (2, 4, 6), (1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("past", [(), (0,)], ids=["", "past"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MATRICES)
def test_codelets_are_products_with_their_matrices(name: str, dtype: str, past: tuple[int, ...]) -> None:
    """Exactly, in small numbers; whole vectors and parts, all rows and the first; and nothing else is written."""
    rng = np.random.default_rng(0)
    rows, lanes = np.array(MATRICES[name]), VECTOR_BYTES // np.dtype(dtype).itemsize
    matrices = Matrices((rows, np.eye(2)))
    height, width = rows.shape
    for some, high, vectors in product((1, lanes, 2 * lanes - 1, 2 * lanes), (1, height), (1, 2)):
        some = min(some, vectors * lanes)
        x = rng.integers(-9, 10, (width, 70)).astype(dtype)
        y = arrays.aligned((20, 64), dtype)
        y[...] = -1.0
        expected = y.copy()
        expected[:high, :some] = rows[:high] @ x[:, 3 : 3 + some]
        at = (0, (0,) * vectors, arrays.address(x), 3, 70, arrays.address(y), 0, 64, some, high, past)
        run_transform(x.dtype.type(0), matrices, *at)
        np.testing.assert_array_equal(y, expected)
    x, y = np.arange(140, dtype=dtype).reshape(2, 70), arrays.aligned((20, 64), dtype)
    at = (1, (0,), arrays.address(x), 0, 70, arrays.address(y), 0, 64, lanes, 2, past)
    run_transform(x.dtype.type(0), matrices, *at)
    np.testing.assert_array_equal(y[:2, :lanes], x[:, :lanes])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.randoms(use_true_random=False))
def test_what_rows_and_columns_share_is_written_once(height: int, width: int, random: Random) -> None:
    """Any small matrix, by a writer of numbers."""
    rows = [[random.choice((0, 0, 1, -1, 2, -2, 0.5)) for _ in range(width)] for _ in range(height)]
    x = [float(random.randint(-9, 9)) for _ in range(width)]
    assert counted(rows, x)[0] == [sum(a * b for a, b in zip(row, x, strict=True)) for row in rows]


def test_pairs_of_points_save_operations() -> None:
    """Even over one for each number that is not zero."""
    for name, most in (("BT of F(4, 3)", 18), ("AT of F(4, 3)", 17)):
        rows = MATRICES[name]
        found, operations = counted(rows, [3.0, -2.0, 5.0, 7.0, -1.0, 4.0])
        assert found == [sum(a * b for a, b in zip(row, (3, -2, 5, 7, -1, 4), strict=True)) for row in rows]
        assert operations <= most < sum(map(bool, chain.from_iterable(rows)))


def counted(rows: Sequence[Sequence[float]], x: Sequence[float]) -> tuple[list[float], int]:
    """What a codelet does, in numbers, and by how many operations."""
    done = []

    def count(function: Callable[..., float]) -> Callable[..., float]:
        def counting(*args: float) -> float:
            done.append(args)
            return function(*args)

        return counting

    class Numbers(codelets._Writer):
        def __init__(self) -> None:
            self.builder = SimpleNamespace(fadd=count(add), fsub=count(sub), fmul=count(mul))
            self.v = SimpleNamespace(zero=0.0, multiply_add=count(lambda a, b, c: a * b + c))

        def number(self, factor: float) -> float:
            return factor

    return Numbers().product(rows, x), len(done)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_fused_winograd_on_random_problems(data: st.DataObject) -> None:
    """Along all axes and along one: in whole numbers that leave nothing but the transforms' own rounding."""
    case = data.draw(cases(dtypes=("int64",)))
    m = data.draw(st.integers(2, 4))
    x, w = case.x.astype("float64"), case.w.astype("float64")
    bias = None if case.bias is None else case.bias.astype("float64")
    before = pc.plan(x, w, algorithm="naive", **case.keywords).call.problem.ndim - 2
    blocks = data.draw(st.sampled_from([m] if before < 0 else [m, (*(1,) * before, m, 1)]))
    try:
        plan = pc.plan(x, w, algorithm=pc.Winograd(blocks, fused=True), **case.keywords)
    except ValueError as error:
        refusal = str(error)
    else:
        expected = case.expected().astype(float)
        scale = 1 + np.abs(x).max(initial=0) * np.abs(w).max() * w.size
        np.testing.assert_allclose(plan(x, w, bias), expected, rtol=0, atol=1e-10 * scale)
        return
    assert any(word in refusal for word in ("strides", "at once", "nothing to save"))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_fused_winograd_is_winograd(ndim: int, layout: str) -> None:
    """Every number of axes, sizes that blocks do not divide, dilation and groups: as array operations have it."""
    rng = np.random.default_rng(0)
    space, taps = (29, 11, 8)[:ndim], (3, 2, 3)[:ndim]
    letters = "DHW"[3 - ndim :]
    for groups, dilation in product((1, 2), (1, 3)):
        if layout == "NHWC":
            x, w = rng.standard_normal((2, *space, 20)), rng.standard_normal((*taps, 20 // groups, 18))
        else:
            x, w = rng.standard_normal((2, 20, *space)), rng.standard_normal((18, 20 // groups, *taps))
        keywords = {"groups": groups, "dilation": dilation, "padding": "same"}
        keywords["layout"] = f"N{letters}C" if layout == "NHWC" else f"NC{letters}"
        ways = [pc.Winograd(4, fused=fused) for fused in (False, True)]
        expected, y = (pc.conv(x, w, algorithm=way, **keywords) for way in ways)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)
        assert y.flags.c_contiguous


def test_blocks_of_a_dilated_axis_cover_each_phase() -> None:
    for outputs, m, r, dilation in product(range(1, 20), (1, 2, 4), (2, 3), (1, 2, 3, 7)):
        axis = fused.axis_of(outputs, m, r, dilation)
        covered = [
            start + dilation * i for start, inside in zip(axis.starts, axis.inside, strict=True) for i in range(inside)
        ]
        assert sorted(covered) == list(range(outputs))


def test_tiles_are_written_into_the_result() -> None:
    x, w = np.ones((2, 40, 20, 8), dtype="float32"), np.ones((3, 3, 8, 32), dtype="float32")
    for name in ("direct", "winograd"):
        plan = pc.plan(x, w, layout="NHWC", algorithm=name, padding="same")
        for tile in (Tile(1, 40), Tile(1, 8)):
            laid = road(plan.call, plan.chosen.algorithm, tile, 2)
            np.testing.assert_allclose(laid(x, *laid.prepare(w, None)), plan(x, w), rtol=1e-5)


# -- without numba -------------------------------------------------------------------------------------------


def test_without_numba_everything_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "uncompiled", lambda: "needs numba, which is not here")
    make_plan.cache_clear()
    try:
        x, w = np.ones((2, 60, 60, 64), dtype="float32"), np.ones((3, 3, 64, 64), dtype="float32")
        plan = pc.plan(x, w, layout="NHWC")
        reasons = {c.name: c.reason for c in plan.candidates}
        assert reasons["direct"] == "direct needs numba, which is not here"
        assert "fused" not in plan.chosen.algorithm.detail
        np.testing.assert_allclose(plan(x, w), 576, rtol=1e-5)
        x3, w3 = np.ones((8, 150, 150, 3), dtype="float32"), np.ones((3, 3, 3, 16), dtype="float32")
        assert pc.plan(x3, w3, layout="NHWC").algorithm == "im2col"
        x1, w1 = np.ones((8, 28, 28, 256), dtype="float32"), np.ones((3, 3, 1, 256), dtype="float32")
        assert pc.plan(x1, w1, layout="NHWC", groups=256).algorithm == "depthwise"
        with pytest.raises(ValueError, match="cannot run this problem: direct needs numba, which is not here"):
            pc.conv(x, w, layout="NHWC", algorithm="direct")
        with pytest.raises(ValueError, match="fused winograd needs numba"):
            pc.conv(x, w, layout="NHWC", algorithm=pc.Winograd(4, fused=True))
    finally:
        make_plan.cache_clear()


SCRIPT = """
import sys, numpy as np, polyconv as pc
x, w = np.ones((1, 3, 300, 300), "float32"), np.ones((16, 3, 3, 3), "float32")
plan = pc.plan(x, w)
reason = {c.name: c.reason for c in plan.candidates}["direct"]
print(reason, plan.algorithm, float(plan(x, w).max()), "numba" in sys.modules)
"""


def test_numba_that_may_not_compile_is_left_alone() -> None:
    """Nor is it imported before something runs that it has compiled."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("direct needs numba, which NUMBA_DISABLE_JIT keeps from compiling ")
    assert run.stdout.split()[-2:] == ["27.0", "False"]


def test_compiled_code_is_kept_on_disk(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert run.stdout.split() == ["None", "direct", "27.0", "True"], run.stderr
    assert [path.name for path in tmp_path.rglob("loops.over_*.nbc")]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[1:, 2],
        lambda x: x[..., ::-1],
        lambda x: x[0, 0, 0],
        lambda x: x[:0],
        lambda x: np.float64(3) + x[0, 0, :1].reshape(()),
        lambda x: x.view(np.recarray),
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
)
def test_addresses_are_those_that_numpy_says(view: Callable[[np.ndarray], Any]) -> None:
    x = np.asanyarray(view(np.zeros((3, 4, 5))))
    assert arrays.address(x) == x.ctypes.data
