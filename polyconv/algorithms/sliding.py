"""Kernels that slide along an axis, compiled: a pixel that was loaded serves all outputs that see it.

Where a layer has few products for each pixel, loading is what takes time. A block of neighbouring outputs is held in
registers, and met by some taps of one line of the kernel at a time: where outputs are as far apart as taps, the
pixel that the first output sees with the second tap is the one that the second output sees with the first (Zhang, Lo &
Lu, "High performance depthwise and pointwise convolutions on mobile devices", AAAI 2020, on ARM).

Of a depthwise layer vectors hold channels, each met by a filter of its own, or, where space is innermost in memory,
positions of one channel. Else they hold filters, and a line of taps is one of a kernel and of a channel. Pixels of many
channels are many bytes long: there blocks are of two or three lines of outputs, if registers hold all taps as well,
and each line of the image is read that much less often.
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
from . import edges
from .blocking import BEGIN, TALL
from .edges import Run, runs

__all__ = ["block", "columns", "holds", "units", "write"]

_SEVERAL = 8  # taps at a time, at most
_STEP = 4  # taps that windows may lie apart whose pixels are worth sharing
_LINES = 128  # vectors of channels, times lines of taps, that a near cache keeps until the next outputs see them again
_FAR = 64  # vectors of positions that are taken through an image at a time
_PIECES = 64  # of a run, at most
_INNER = {"channels": 1, "positions": -1, "filters": None}  # the axis along which vectors load, if they do
_HIGH = 4  # lines of outputs in a block, at most: processors fetch ahead from few lines at a time
_SEEN = 45  # vectors that such a block sees, at most: a power of two apart, no more have room in the nearest cache
_TALLEST = 25  # outputs that are held at a time and see numbers, which need no register each for their address
_ALIAS = 4096  # lines of planes that lie whole such bytes apart have but a few places of the nearest cache in common
_ALIKE = 8  # outputs that see no more lines than that


def holds(p: ConvProblem) -> str:
    """What vectors hold: channels, positions in planes of their own, or filters."""
    if p.channels == p.filters == 1:
        return "channels" if p.channels_last and p.groups > 1 else "positions"
    return "filters"


class Block(NamedTuple):
    """How many neighbouring outputs are held in registers, along two axes, and how many taps they meet at a time."""

    high: int
    rows: int
    several: int


def _along(p: ConvProblem) -> int:
    """The axis along which the kernel slides; in planes, whose vectors run along the last, the one before, or -1."""
    return p.ndim - 2 if holds(p) == "positions" else p.ndim - 1


def _down(p: ConvProblem) -> int:
    """The axis before, along which it slides as well where vectors hold channels, and lines share pixels; or -1."""
    return p.ndim - 2 if holds(p) == "channels" and _apart(p, p.ndim - 2) and _step(p) else -1


def _apart(p: ConvProblem, axis: int) -> int:
    """How many taps further on the next window begins along an axis; zero where it shares no pixels worth sharing."""
    if axis < 0:
        return 0
    apart, left = divmod(p.stride[axis], p.dilation[axis])
    return apart if not left and apart <= min(_STEP, p.kernel[axis] - 1) else 0


def _step(p: ConvProblem) -> int:
    """The same, along the axis along which the kernel slides."""
    return _apart(p, _along(p))


def _runs_of(p: ConvProblem) -> Sequence[Sequence[Run]]:
    """The runs of every axis; of the two of a plane, all outputs are one, since its margins are masked."""
    if holds(p) != "positions":
        return runs(p)
    whole = zip(p.output_size, p.kernel, p.padding, strict=True)
    planes = [(Run(0, outputs, 0, taps, -low),) for outputs, taps, (low, _) in whole]
    return (*(edges.along(p, axis) for axis in range(p.ndim - 2)), *planes[-2:])


class _Axis(NamedTuple):
    """Of an axis that kernels slide along: outputs that see all taps, these taps, and the windows' distance in taps."""

    outputs: int
    taps: int
    step: int


def _axis(p: ConvProblem, axis: int) -> _Axis:
    """The same; one output and one tap where there is none."""
    if axis < 0:
        return _Axis(1, 1, 0)
    return _Axis(max((run.outputs for run in _runs_of(p)[axis]), default=1), p.kernel[axis], _apart(p, axis))


def _seen(outputs: int, axis: _Axis, several: int | None = None) -> int:
    """How many pixels neighbouring outputs of an axis see, by ``several`` of the taps or all."""
    taps = several or axis.taps
    return min(axis.step, taps) * (outputs - 1) + taps if axis.step else outputs * taps


def _blocks(down: _Axis, along: _Axis, kind: str, registers: int, longest: int) -> Iterator[Block]:
    """Those whose sums registers hold, beside the taps that are met at a time and what is on its way."""
    for several in range(1, (min(along.taps, _SEVERAL) if along.step else 1) + 1):
        most = min(registers - several - 2, longest)
        yield from (Block(1, rows, several) for rows in range(1, min(along.outputs, most) + 1))
    if down.step:
        most = registers - down.taps * along.taps - 5
        for high, rows in product(range(2, min(down.outputs, _HIGH) + 1), range(1, min(along.outputs, most // 2) + 1)):
            if high * rows <= most and _seen(high, down) * _seen(rows, along) <= _SEEN:
                yield Block(high, rows, along.taps)


@lru_cache
def _block(
    down: _Axis, along: _Axis, lines: int, kind: str, apart: int, registers: int, longest: int
) -> tuple[Block, float]:
    """The best block for all outputs of both axes, and the cycles of a vector of each, for ``lines`` of taps.

    It has ``longest`` outputs at most, unless it is of several lines.

    In a cycle a processor multiplies two vectors and loads two numbers or vectors, or one vector that lies across lines
    of the cache, as pixels do, of which those that lie ``apart`` take so many; they are not quite hidden. A product
    takes four cycles until another can be added to it. Vectors of channels come from the second cache: the nearest has
    no room for lines of many until others meet them.
    """
    across, far = 1.0 if kind == "filters" else 1.5 * apart, 1.5 if kind == "channels" else 0.0

    def cycles(block: Block) -> tuple[float, float]:
        """Of all blocks of a kind, in which they multiply, and in all."""
        tall, lower = (down.taps, _seen(block.high, down)) if block.high > 1 else (1, 1)

        def met(several: int) -> float:
            taps, loads = tall * several, across * lower * _seen(block.rows, along, several) + tall * several
            return max(block.high * block.rows * taps / 2, loads / 2, 4.0 * taps) + loads / 8

        number = -(-along.outputs // block.rows) * -(-down.outputs // block.high)
        some, others = divmod(along.taps, block.several)
        products = number * lines / tall * (some * met(block.several) + others * met(1))
        return products, products + number * (lines / tall * far * lower * block.rows * along.step + BEGIN)

    best = min(_blocks(down, along, kind, registers, longest), key=lambda block: cycles(block)[1])
    return best, cycles(best)[0]


@lru_cache
def block(p: ConvProblem, registers: int, lanes: int) -> tuple[Block, float]:
    """The block for a problem, and the cycles that it takes in all, if nothing else does."""
    kind, down, along = holds(p), _axis(p, _down(p)), _axis(p, _along(p))
    alike = kind == "positions" and p.size[-1] * p.itemsize % _ALIAS == 0
    longest = _ALIKE if alike else _TALLEST if kind == "filters" else TALL
    apart = min(edges.apart(p), lanes) if kind == "positions" else 1
    found, cycles = _block(down, along, p.taps // along.taps * p.channels, kind, apart, registers, longest)
    extent = {"channels": p.groups, "filters": p.filters, "positions": p.output_size[-1]}[kind]
    vectors = -(-extent // lanes) * (1 if kind == "channels" else p.groups)
    places = p.positions / (down.outputs * along.outputs * (p.output_size[-1] if kind == "positions" else 1))
    return found, cycles * p.batch * places * vectors


def columns(w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """A kernel ``(G, K, C, *kernel)`` by what vectors hold, ``(groups, taps and channels, extent)``."""
    taps = range(3, 3 + p.ndim)
    order, groups = ((1, *taps, 2, 0), 1) if holds(p) == "channels" else ((0, *taps, 2, 1), p.groups)
    return xp.reshape(xp.permute_dims(w, order), (groups, p.taps * p.channels, -1))


class _Tables(NamedTuple):
    """What the loops are told, see :func:`polyconv.compiled.loops.over_lines`; operands without their addresses."""

    x: tuple[int | Array | None, ...]
    w: tuple[int | Array, ...]
    y: tuple[int, ...]
    outer: Array
    along: Array
    panels: Array
    stretch: int
    images: tuple[int, int]
    planes: tuple[int, int, int, int]
    frame: tuple[int, int, int, int]


def _panels(p: ConvProblem, x_group: int, y_group: int, lanes: int, width: int, xp: ModuleType) -> Array:
    """Where every vector of a place lies in image, result and kernel, how many lanes it has, and if it sees an edge."""
    if holds(p) == "positions":
        outputs, step, columns = p.output_size[-1], edges.apart(p), edges.columns(p)
        left, right = min(columns), max(columns) + (lanes - 1) * step  # of the pixels that a vector sees
        at = xp.arange(0, outputs, lanes, dtype=xp.int64)
        edge = (at * step + left < 0) | (at * step + right >= p.size[-1])
        return xp.stack([at * step, at, at * 0, xp.minimum(outputs - at, xp.asarray(lanes)), edge], axis=1)
    panel = p.taps * p.channels * width
    if holds(p) == "channels":
        found = [(i, i, i // width * panel + i % width, min(lanes, p.groups - i), 0) for i in range(0, p.groups, lanes)]
        return xp.asarray(found, dtype=xp.int64)
    group = -(-p.filters // width) * panel
    found = [
        (g * x_group, g * y_group + k, g * group + k // width * panel + k % width, min(lanes, p.filters - k), 0)
        for g, k in product(range(p.groups), range(0, p.filters, lanes))
    ]
    return xp.asarray(found, dtype=xp.int64)


def _pieces(outputs: int, rows: int) -> Iterator[tuple[int, int]]:
    """A run of outputs in parts for several threads, each of some blocks of ``rows``."""
    number = max(1, min(_PIECES, outputs // (4 * rows)))
    return pairwise(outputs * i // number for i in range(number + 1))


def _stretch(p: ConvProblem) -> int:
    """Vectors of a place that are taken through an image at a time."""
    return _FAR if holds(p) == "positions" else max(8, min(16, _LINES // (p.taps // p.kernel[-1])))


class _Places(NamedTuple):
    """Outputs on one of the other axes that see the same taps: their run, and where in it each is, or each block."""

    run: Run
    firsts: Sequence[int]
    block: bool


def _places(p: ConvProblem, axis: int, high: int) -> Iterator[_Places]:
    """Those of an axis, run by run: in blocks that are ``high``, or one by one.

    Along the last axis of a plane vectors run by themselves, and there is one for all.
    """
    for run in _runs_of(p)[axis]:
        if holds(p) == "positions" and axis == p.ndim - 1:
            yield _Places(run, (0,), False)
        elif axis == _down(p) and 1 < high <= run.outputs and run.taps == p.kernel[axis]:
            # The last block lies over the one before.
            yield _Places(run, [min(i, run.outputs - high) for i in range(0, run.outputs, high)], True)
        else:
            yield _Places(run, range(run.outputs), False)


@lru_cache
def units(p: ConvProblem, registers: int, lanes: int) -> int:
    """How many units the loops have: runs of outputs at all places, in all images."""
    axis, kind = _along(p), holds(p)
    high, rows, _ = block(p, registers, lanes)[0]
    pieces = sum(sum(1 for _ in _pieces(run.outputs, rows)) for run in _runs_of(p)[axis]) if axis >= 0 else 1
    places = math.prod(sum(len(some.firsts) for some in _places(p, a, high)) for a in range(p.ndim) if a != axis)
    panels = {"channels": -(-p.groups // lanes), "filters": p.groups * -(-p.filters // lanes)}
    vectors = panels.get(kind, -(-p.output_size[-1] // lanes))
    return p.batch * (p.groups if kind == "positions" else 1) * places * -(-vectors // _stretch(p)) * pieces


class _Lines(NamedTuple):
    """Where lines of taps begin in image and kernel, in which columns of a plane, and which of them each place sees."""

    x: Array
    w: Array
    columns: Array | None
    outer: Array


def _lines(
    p: ConvProblem, high: int, x_strides: tuple[int, ...], y_space: Sequence[int], w_space: Sequence[int], inner: int,
    xp: ModuleType,
) -> _Lines:  # fmt: skip
    """Those of all places on the axes but that along which the kernel slides."""
    planes, x_space = holds(p) == "positions", x_strides[3:]
    others = [a for a in range(p.ndim) if a != _along(p)]
    channels = every(p.channels, x_strides[2]), every(p.channels, inner)

    def taps(a: int, place: _Places) -> Sequence[int]:
        """Where the pixels of a run's taps lie, from its first on; of those that a block meets, that of the first."""
        if place.block:
            return (0,)
        if planes and a == p.ndim - 1:
            return tuple(edges.columns(p))
        return every(place.run.taps, p.dilation[a] * x_space[a])

    def w_taps(a: int, place: _Places) -> Sequence[int]:
        """Where those taps lie in the kernel."""
        run = place.run
        return (0,) if place.block else every(run.tap + run.taps, w_space[a])[run.tap :]

    x_lines: list[Array] = []
    w_lines: list[Array] = []
    columns: list[Array] = []
    outer: list[Array] = []
    for some in product(*(_places(p, a, high) for a in others)):
        begin = sum(lines.shape[0] for lines in x_lines)
        each = [*zip(others, some, strict=True)]
        x_lines.append(offsets((*(taps(a, places) for a, places in each), channels[0]), xp))
        w_lines.append(offsets((*(w_taps(a, places) for a, places in each), channels[1]), xp))
        if planes:
            before = ((0,) * places.run.taps for _, places in each[:-1])
            columns.append(offsets((*before, tuple(edges.columns(p))), xp))
        # Where a plane's rows begin is said of its columns.
        those = [
            (a, places.run, xp.asarray(places.firsts, dtype=xp.int64))
            for a, places in each
            if not planes or a < p.ndim - 1
        ]
        x = offsets(tuple((run.start + at * p.stride[a]) * x_space[a] for a, run, at in those), xp)
        y = offsets(tuple((run.first + at) * y_space[a] for a, run, at in those), xp)
        same = begin, begin + x_lines[-1].shape[0], any(places.block for places in some)
        outer.append(xp.stack([x, y, *(xp.full_like(x, value) for value in same)], axis=1))
    every_place = xp.concat(outer)
    return _Lines(
        xp.concat(x_lines),
        xp.concat(w_lines),
        xp.concat(columns) if planes else None,
        xp.take(every_place, xp.argsort(every_place[:, 1], stable=True), axis=0),
    )


def _tables(
    p: ConvProblem, block: Block, x_strides: tuple[int, ...], y_strides: tuple[int, ...], lanes: int, width: int,
    xp: ModuleType,
) -> _Tables:  # fmt: skip
    axis, down, planes = _along(p), _down(p), holds(p) == "positions"
    x_image, x_group, _, *x_space = x_strides
    y_image, y_group, _, *y_space = y_strides
    inner = 1 if planes else width
    w_space = [math.prod(p.kernel[a + 1 :]) * p.channels * inner for a in range(p.ndim)]

    def along(space: Sequence[int], a: int) -> int:
        return space[a] if a >= 0 else 0

    ahead, apart = (p.stride[axis], p.dilation[axis]) if axis >= 0 else (0, 0)
    x_row, y_row, w_tap = (along(space, axis) for space in (x_space, y_space, w_space))
    lines = _lines(p, block.high, x_strides, y_space, w_space, inner, xp)
    runs = [
        (first * x_row, (run.first + begin) * y_row, end - begin, run.tap * w_tap, run.taps, first)
        for run in (_runs_of(p)[axis] if axis >= 0 else (Run(0, 1, 0, 1, 0),))
        for begin, end in _pieces(run.outputs, block.rows)
        for first in (run.start + begin * ahead,)
    ]
    return _Tables(
        (along(x_space, down) * p.dilation[down], x_row * ahead, x_row * apart, lines.x, lines.columns),
        (along(w_space, down), w_tap, lines.w),
        (along(y_space, down), y_row),
        lines.outer,
        xp.asarray(runs, dtype=xp.int64),
        _panels(p, x_group, y_group, lanes, width, xp),
        _stretch(p),
        (x_image, y_image),
        (p.groups, x_group, y_group, p.taps) if planes else (1, 0, 0, 0),
        (p.size[-1], p.size[axis] if axis >= 0 else 1, ahead, apart),
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
    # Margins, but of planes, cut lines of outputs in runs, which are all that a block may cover: a kernel has none.
    found = block(p, microkernel.REGISTERS, lanes)[0]
    down = _axis(p, _down(p) if found.high > 1 else -1)
    lengths = found.high, found.rows, down.taps, found.several, down.step, _step(p)
    wide = {"channels": (1, 1), "positions": (edges.apart(p), 0), "filters": (0, 1)}[kind]
    return _Told(
        loops,
        units(p, microkernel.REGISTERS, lanes),
        tuple((0,) * length for length in (*lengths, *wide)),
        microkernel.VECTOR_BYTES,
        _tables(p, found, x_strides, y_strides, lanes, width, xp),
    )


def write(x: Array, w: Array, width: int, p: ConvProblem, xp: ModuleType, y: Array, workers: int) -> None:
    """Convolve into ``y``.

    ``w`` is flat: ``(G, taps)`` in planes, else panels of its :func:`columns`, ``(groups, panels, rows, width)``.
    """
    pixels, x_strides = memory(x, _INNER[holds(p)])
    result, y_strides = memory(y)
    loops, units, code, vector, tables = _told(p, x_strides, y_strides, width, xp)
    code = (*code, (0,) if outgrows(result, vector) else ())
    operands = ((address(a), *told) for a, told in zip((pixels, w, result), tables[:3], strict=True))
    loops.over_lines(workers, units, w[0], code, *operands, *tables[3:])
