"""Kernels that slide along an axis, compiled: a pixel that was loaded serves all outputs that see it.

Where a layer has few products for each pixel, loading is what takes time. A block of neighbouring outputs is held in
registers, and met by some taps of one line of the kernel at a time: where outputs are as far apart as taps, the
pixel that the first output sees with the second tap is the one that the second output sees with the first (Zhang, Lo &
Lu, "High performance depthwise and pointwise convolutions on mobile devices", AAAI 2020, on ARM).

Of a depthwise layer vectors hold channels, each met by a filter of its own, or, where space is innermost in memory,
positions of one channel. Else they hold filters, and a line of taps is one of a kernel and of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array, address, every, memory, offsets, outgrows
from ..problem import ConvProblem
from .blocking import TALL
from .edges import Run, runs

__all__ = ["block", "columns", "holds", "units", "write"]

_SEVERAL = 8  # taps at a time, at most
_STEP = 4  # taps that windows may lie apart whose pixels are worth sharing
_LINES = 128  # vectors of channels, times lines of taps, that a near cache keeps until the next outputs see them again
_FAR = 64  # vectors of positions that are taken through an image at a time
_PIECES = 64  # of a run, at most
_INNER = {"channels": 1, "positions": -1, "filters": None}  # the axis along which vectors load, if they do
_TALLEST = 25  # outputs that are held at a time and see numbers, which need no register each for their address
_BEGIN = 90.0  # cycles until a block has begun, and has been stored: the reason why large ones are taken


def holds(p: ConvProblem) -> str:
    """What vectors hold: channels, positions in planes of their own, or filters."""
    if p.channels == p.filters == 1:
        return "channels" if p.channels_last and p.groups > 1 else "positions"
    return "filters"


class Block(NamedTuple):
    """How many neighbouring outputs are held in registers, and how many taps they meet at a time."""

    rows: int
    several: int


def _step(p: ConvProblem) -> int:
    """How many taps further on the next window begins along the axis; zero where it shares no pixels worth sharing."""
    axis = _along(p)
    apart, left = divmod(p.stride[axis], p.dilation[axis])
    return apart if axis >= 0 and not left and apart <= min(_STEP, p.kernel[axis] - 1) else 0


@lru_cache
def _block(outputs: int, taps: int, lines: int, step: int, kind: str, registers: int) -> tuple[Block, float]:
    """The best block for a run of ``outputs``, and the cycles of a vector of each, for ``lines`` of ``taps``.

    In a cycle a processor multiplies two vectors and loads two numbers or vectors, or one vector that lies across lines
    of the cache, as pixels do; they are not quite hidden. A product takes four cycles until another can be added to it.
    """
    best, least, products = Block(1, 1), float("inf"), 0.0
    across = 1.0 if kind == "filters" else 1.5

    def cycles(rows: int, several: int) -> float:
        loads = across * (min(step, several) * (rows - 1) + several if step else rows * several) + several
        return max(rows * several / 2, loads / 2, 4.0 * several) + loads / 8

    for several in range(1, min(taps, _SEVERAL) + 1 if step else 2):
        for rows in range(1, min(outputs, registers - several - 2, _TALLEST if kind == "filters" else TALL) + 1):
            line = taps // several * cycles(rows, several) + taps % several * cycles(rows, 1)
            number = -(-outputs // rows)
            if (total := number * (lines * line + _BEGIN)) < least:
                best, least, products = Block(rows, several), total, number * lines * line
    return best, products


def _along(p: ConvProblem) -> int:
    """The axis along which the kernel slides; in planes, whose vectors run along the last, the one before, or -1."""
    return p.ndim - 2 if holds(p) == "positions" else p.ndim - 1


@lru_cache
def block(p: ConvProblem, registers: int, lanes: int) -> tuple[Block, float]:
    """The block for a problem, and the cycles that it takes in all, if nothing else does."""
    axis, kind = _along(p), holds(p)
    outputs, taps = 1, 1
    if axis >= 0:
        outputs, taps = max((run.outputs for run in runs(p)[axis]), default=1), p.kernel[axis]
    lines = p.taps // taps * p.channels
    found, cycles = _block(outputs, taps, lines, _step(p), kind, registers)
    extent = {"channels": p.groups, "filters": p.filters, "positions": p.output_size[-1]}[kind]
    vectors = -(-extent // lanes) * (1 if kind == "channels" else p.groups)
    places = p.positions // outputs // (p.output_size[-1] if kind == "positions" else 1)
    return found, cycles * p.batch * places * vectors


def columns(w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """A kernel ``(G, K, C, *kernel)`` by what vectors hold, ``(groups, taps and channels, extent)``."""
    taps = range(3, 3 + p.ndim)
    order, groups = ((1, *taps, 2, 0), 1) if holds(p) == "channels" else ((0, *taps, 2, 1), p.groups)
    return xp.reshape(xp.permute_dims(w, order), (groups, p.taps * p.channels, -1))


class _Tables(NamedTuple):
    """What the loops are told beside the arrays, see :func:`polyconv.compiled.loops.over_lines`."""

    x_lines: Array
    w_lines: Array
    x_row: int
    x_tap: int
    w_tap: int
    y_row: int
    outer: Array
    along: Array
    panels: Array
    stretch: int
    images: tuple[int, int]
    planes: tuple[int, int, int, int]


def _panels(p: ConvProblem, x_group: int, y_group: int, lanes: int, width: int) -> list[tuple[int, int, int, int]]:
    """Where every vector of a place lies in image, result and kernel, and how many lanes it has."""
    if holds(p) == "positions":
        return [(i, i, 0, min(lanes, p.output_size[-1] - i)) for i in range(0, p.output_size[-1], lanes)]
    panel = p.taps * p.channels * width
    if holds(p) == "channels":
        return [(i, i, i // width * panel + i % width, min(lanes, p.groups - i)) for i in range(0, p.groups, lanes)]
    group = -(-p.filters // width) * panel
    return [
        (g * x_group, g * y_group + k, g * group + k // width * panel + k % width, min(lanes, p.filters - k))
        for g, k in product(range(p.groups), range(0, p.filters, lanes))
    ]


def _pieces(outputs: int, rows: int) -> Iterator[tuple[int, int]]:
    """A run of outputs in parts for several threads, each of some blocks of ``rows``."""
    number = max(1, min(_PIECES, outputs // (4 * rows)))
    return pairwise(outputs * i // number for i in range(number + 1))


def _stretch(p: ConvProblem) -> int:
    """Vectors of a place that are taken through an image at a time."""
    return _FAR if holds(p) == "positions" else max(8, min(16, _LINES // (p.taps // p.kernel[-1])))


@lru_cache
def units(p: ConvProblem, registers: int, lanes: int) -> int:
    """How many units the loops have: runs of outputs at all places, in all images."""
    axis, kind, places = _along(p), holds(p), p.output_size
    rows = block(p, registers, lanes)[0].rows
    pieces = sum(sum(1 for _ in _pieces(run.outputs, rows)) for run in runs(p)[axis]) if axis >= 0 else 1
    if kind == "positions":
        places = places[:-1]
    others = math.prod(places) // places[axis] if axis >= 0 else 1
    panels = {"channels": -(-p.groups // lanes), "filters": p.groups * -(-p.filters // lanes)}
    vectors = panels.get(kind, -(-p.output_size[-1] // lanes))
    return p.batch * (p.groups if kind == "positions" else 1) * others * -(-vectors // _stretch(p)) * pieces


def _tables(
    p: ConvProblem, rows: int, x_strides: tuple[int, ...], y_strides: tuple[int, ...], lanes: int, width: int,
    xp: ModuleType,
) -> _Tables:  # fmt: skip
    axis, planes = _along(p), holds(p) == "positions"
    x_image, x_group, x_channel, *x_space = x_strides
    y_image, y_group, _, *y_space = y_strides
    inner = 1 if planes else width
    w_space = [math.prod(p.kernel[a + 1 :]) * p.channels * inner for a in range(p.ndim)]
    others = [a for a in range(p.ndim) if a != axis]
    channels = every(p.channels, x_channel), every(p.channels, inner)

    def taps(a: int, run: Run) -> Sequence[int]:
        """Where the pixels of a run's taps lie, from its first on."""
        if len(x_space) == p.ndim or a < p.ndim - 1:
            return every(run.taps, p.dilation[a] * x_space[a])
        apart = (divmod(tap * p.dilation[a], p.stride[a]) for tap in range(p.kernel[a]))  # unzipped
        return tuple(n + phase * x_space[a] for n, phase in apart)

    x_lines: list[Array] = []
    w_lines: list[Array] = []
    outer: list[tuple[int, ...]] = []
    for some in product(*(runs(p)[a] for a in others)):
        begin = sum(lines.shape[0] for lines in x_lines)
        steps = [*zip(others, some, strict=True)]
        x_lines.append(offsets((*(taps(a, run) for a, run in steps), channels[0]), xp))
        w_lines.append(
            offsets((*(every(run.tap + run.taps, w_space[a])[run.tap :] for a, run in steps), channels[1]), xp)
        )
        # Vectors run along the last axis of a plane by themselves.
        counted = [(a, run) for a, run in steps if not planes or a < p.ndim - 1]
        for at in product(*(range(run.outputs) for _, run in counted)):
            x = sum((run.start + i * p.stride[a]) * x_space[a] for i, (a, run) in zip(at, counted, strict=True))
            y = sum((run.first + i) * y_space[a] for i, (a, run) in zip(at, counted, strict=True))
            outer.append((x, y, begin, begin + x_lines[-1].shape[0]))
    here = runs(p)[axis] if axis >= 0 else (Run(0, 1, 0, 1, 0),)
    x_row, y_row, w_tap = (x_space[axis], y_space[axis], w_space[axis]) if axis >= 0 else (0, 0, 0)
    ahead = p.stride[axis] if axis >= 0 else 0
    panels = _panels(p, x_group, y_group, lanes, width)
    along = [
        ((run.start + begin * ahead) * x_row, (run.first + begin) * y_row, end - begin, run.tap * w_tap, run.taps)
        for run in here
        for begin, end in _pieces(run.outputs, rows)
    ]
    return _Tables(
        xp.concat(x_lines),
        xp.concat(w_lines),
        x_row * ahead,
        x_row * (p.dilation[axis] if axis >= 0 else 0),
        w_tap,
        y_row,
        xp.asarray(sorted(outer, key=lambda row: row[1]), dtype=xp.int64),
        xp.asarray(along, dtype=xp.int64),
        xp.asarray(panels, dtype=xp.int64),
        _stretch(p),
        (x_image, y_image),
        (p.groups, x_group, y_group, p.taps) if planes else (1, 0, 0, 0),
    )


class _Told(NamedTuple):
    """Compiled loops, how many units they have, what chooses their code, bytes of a vector, and tables."""

    loops: ModuleType
    units: int
    code: tuple[tuple[int, ...], ...]
    vector: int
    tables: _Tables


@lru_cache(maxsize=64)
def _told(p: ConvProblem, x_strides: tuple[int, ...], y_strides: tuple[int, ...], width: int, xp: ModuleType) -> _Told:
    """All that does not depend on arrays but for their strides: worked out once, for call after call."""
    from ..compiled import loops, microkernel

    kind, lanes = holds(p), microkernel.VECTOR_BYTES // p.itemsize
    # Margins cut lines of outputs in runs, which are all that a block may cover: a kernel that is prepared has none.
    rows, several = block(p, microkernel.REGISTERS, lanes)[0]
    wide = () if kind == "filters" else (0,), () if kind == "positions" else (0,)
    return _Told(
        loops,
        units(p, microkernel.REGISTERS, lanes),
        ((0,) * rows, (0,) * several, (0,) * _step(p), *wide),
        microkernel.VECTOR_BYTES,
        _tables(p, rows, x_strides, y_strides, lanes, width, xp),
    )


def write(x: Array, w: Array, width: int, p: ConvProblem, xp: ModuleType, y: Array, workers: int) -> None:
    """Convolve into ``y``; where vectors run along the last axis of ``x``, its strides have been unzipped.

    ``w`` is flat: ``(G, taps)`` in planes, else panels of its :func:`columns`, ``(groups, panels, rows, width)``.
    """
    pixels, x_strides = memory(x, _INNER[holds(p)])
    result, y_strides = memory(y)
    loops, units, code, vector, tables = _told(p, x_strides, y_strides, width, xp)
    past = (0,) if outgrows(result, vector) else ()
    loops.over_lines(workers, units, w[0], *code, past, *map(address, (pixels, w, result)), *tables)
