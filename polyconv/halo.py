"""Which parts of which blocks an interval of outputs sees: the cut of an array in chunks, along one axis at a time.

Like a tile, a block of the result is the same convolution of a smaller image, which lies in one block of the array or
several. Outputs belong to the block in which the middle of their window lies, so that a result of the image's size has
the image's chunks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from .padding import source
from .problem import ConvProblem, reach

__all__ = ["Interval", "Piece", "between", "each", "split"]


class Piece(NamedTuple):
    """Part of a block along one axis: elements from ``start`` on, ``length`` of them.

    The ``step`` is 1 forwards, -1 backwards, and 0 for the same one over and over.
    """

    block: int
    start: int
    length: int
    step: int


class Interval(NamedTuple):
    """The outputs from ``first`` to ``last - 1`` along an axis: what they read, and how many zeros lie at both ends."""

    first: int
    last: int
    pieces: tuple[Piece, ...]
    margin: tuple[int, int]

    @property
    def length(self) -> int:
        """How many elements they read, without zeros."""
        return sum(piece.length for piece in self.pieces)


def _bounds(blocks: Sequence[int]) -> list[int]:
    return list(accumulate(blocks, initial=0))


def _span(bounds: Sequence[int], first: int, length: int, step: int = 1) -> Iterator[Piece]:
    """A run of elements, of an axis whose blocks lie between ``bounds``, block by block."""
    while length > 0:
        block = bisect_right(bounds, first) - 1
        here = length
        if step:
            here = min(length, bounds[block + 1] - first if step > 0 else first - bounds[block] + 1)
        yield Piece(block, first - bounds[block], here, step)
        first, length = first + step * here, length - here


def between(blocks: Sequence[int], first: int, last: int) -> Interval:
    """Elements from ``first`` to ``last - 1`` of an axis without windows: channels, say, or filters."""
    found = Interval(first, last, tuple(_span(_bounds(blocks), first, last - first)), (0, 0))
    return found if found.pieces else _nothing(found)


def each(blocks: Sequence[int]) -> tuple[Interval, ...]:
    """The blocks of an axis without windows, one by one."""
    ends = pairwise(_bounds(blocks))
    return tuple(Interval(a, b, (Piece(i, 0, b - a, 1),), (0, 0)) for i, (a, b) in enumerate(ends))


def _nothing(interval: Interval) -> Interval:
    """Reads nothing, and that of the first block."""
    return interval._replace(pieces=(Piece(0, 0, 0, 1),))


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Positions in runs of one step: first, length and step."""
    at = 0
    while at < len(positions):
        end, step = at + 1, 1
        if end < len(positions) and abs(positions[end] - positions[at]) <= 1:
            step = positions[end] - positions[at]
            while end < len(positions) and positions[end] - positions[end - 1] == step:
                end += 1
        yield positions[at], end - at, step
        at = end


def _reads(p: ConvProblem, axis: int, bounds: Sequence[int], first: int, last: int) -> Interval:
    """What outputs read along a spatial axis: zeros that they want stay wanting, other margins are looked up."""
    inside, (low, high) = p.window(axis, first, last)
    pieces = [*_span(bounds, inside.start, inside.stop - inside.start)]
    if p.padding_mode != "constant":
        size, start = p.size[axis], first * p.stride[axis] - p.padding[axis][0]
        length = (last - 1 - first) * p.stride[axis] + reach(p.kernel[axis], p.dilation[axis])
        ends = (range(start, min(start + length, 0)), range(max(start, size), start + length))
        before, after = ([source(i, size, p.padding_mode) for i in end] for end in ends)
        pieces = [
            *(piece for run in _runs(before) for piece in _span(bounds, *run)),
            *pieces,
            *(piece for run in _runs(after) for piece in _span(bounds, *run)),
        ]
        low = high = 0
    found = Interval(first, last, tuple(pieces), (low, high))
    return found if pieces else _nothing(found)


def split(p: ConvProblem, axis: int, blocks: Sequence[int]) -> tuple[Interval, ...]:
    """A spatial axis of the result, cut where the image is; a block that holds no window's middle has no outputs."""
    bounds, (low, _) = _bounds(blocks), p.padding[axis]
    outputs, middle = p.output_size[axis], (reach(p.kernel[axis], p.dilation[axis]) - 1) // 2
    cuts = [-(-(bound + low - middle) // p.stride[axis]) for bound in bounds[1:-1]]
    cuts = sorted({0, outputs, *(cut for cut in cuts if 0 < cut < outputs)})
    if not outputs:
        return (_nothing(Interval(0, 0, (), (0, 0))),)
    return tuple(_reads(p, axis, bounds, first, last) for first, last in pairwise(cuts))
