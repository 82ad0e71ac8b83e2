"""Cuts of an axis: together the intervals read what the definition reads, whatever the blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import MODES

from polyconv.halo import Interval, between, each, split
from polyconv.padding import pad, widest
from polyconv.problem import ConvProblem, reach


def read(x: np.ndarray, blocks: tuple[int, ...], interval: Interval) -> np.ndarray:
    """What an interval's pieces hold."""
    ends = np.cumsum((0, *blocks))
    parts = []
    for piece in interval.pieces:
        block = x[ends[piece.block] : ends[piece.block + 1]]
        assert piece.length <= len(block) or not piece.step
        parts.append(block[[piece.start + i * piece.step for i in range(piece.length)]])
    return np.concatenate(parts)


@st.composite
def chunkings(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    cuts = draw(st.lists(st.integers(0, size), max_size=6).map(sorted))  # twice the same makes an empty block
    return tuple(b - a for a, b in pairwise((0, *cuts, size)))


@given(st.data())
def test_intervals_read_their_windows(data: st.DataObject) -> None:
    draw = data.draw
    size, taps, stride, dilation = (draw(st.integers(1, most)) for most in (20, 5, 4, 3))
    mode = draw(st.sampled_from(MODES))
    limit = widest(size, mode)
    low, high = (draw(st.integers(0, 9 if limit is None else min(9, limit))) for _ in range(2))
    if reach(taps, dilation) > size + low + high:
        taps = 1
    blocks = draw(chunkings(size))
    p = ConvProblem(1, 1, 1, 1, (size,), (taps,), (stride,), (dilation,), ((low, high),), mode)
    x = np.arange(1, size + 1)
    padded = pad(x, [(low, high)], mode, np)
    found = split(p, 0, blocks)
    assert [interval.first for interval in found] == [0, *(interval.last for interval in found[:-1])]
    assert found[-1].last == p.output_size[0]
    for interval in found:
        assert interval.last > interval.first
        start = interval.first * stride
        window = padded[start : (interval.last - 1) * stride + reach(taps, dilation)]
        pixels = read(x, blocks, interval)
        assert interval.length == len(pixels)
        assert mode == "constant" or interval.margin == (0, 0)
        np.testing.assert_array_equal(np.pad(pixels, interval.margin), window)


@given(st.data())
def test_axes_without_windows(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 12))
    blocks = data.draw(chunkings(size))
    x = np.arange(size)
    np.testing.assert_array_equal(np.concatenate([read(x, blocks, one) for one in each(blocks)]), x)
    first, last = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
    np.testing.assert_array_equal(read(x, blocks, between(blocks, first, last)), x[first:last])


def test_a_result_of_the_images_size_has_its_chunks() -> None:
    for taps in (1, 2, 3, 4, 5, 8):
        low = (taps - 1) // 2
        p = ConvProblem(1, 1, 1, 1, (20,), (taps,), (1,), (1,), ((low, taps - 1 - low),))
        assert [one.last - one.first for one in split(p, 0, (5, 1, 2, 12))] == [5, 1, 2, 12]


def test_strides_that_divide_chunks_divide_those_of_the_result() -> None:
    p = ConvProblem(1, 1, 1, 1, (24,), (3,), (2,), (1,), ((1, 1),))
    assert [one.last - one.first for one in split(p, 0, (8, 8, 8))] == [4, 4, 4]
