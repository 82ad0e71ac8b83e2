"""Winograd's method in one pass over the image, compiled: no transformed image is ever stored as a whole.

Blocks are gathered, transformed, multiplied and transformed back some dozens at a time, so that what one step leaves
the next finds in cache (Jia, Zlateski, Durand & Li, "Optimizing N-dimensional, Winograd-based convolution for manycore
CPUs", PPoPP 2018). Blocks of a dilated convolution are dilated themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ..arrays import Array, address, aligned, every, memory, offsets, outgrows, padded_rows
from ..problem import ConvProblem
from .base import Cost
from .blocking import ENDLESS, REGISTERS, VECTOR_BYTES, Block, block
from .direct import DEPTH
from .minimal import Settings, Way, codelets_of, design_of, refusal, transform_macs, uncompiled, with_error

if TYPE_CHECKING:
    from ..compiled import codelets
    from ..target import Target

__all__ = ["FUSED", "axis_of"]

_LINE = 30  # cycles
_NEAR_BYTES = 2**20  # what a near cache keeps of a batch of blocks
_HIDDEN = 2  # of the time to read the kernel, but one such part is seen
_BLOCK_BYTES = 3 * 2**18  # what blocks hold together before and after their product: about what a cache holds
_MOST_BYTES, _MANY = 15 * 2**20, 264  # what they hold at most, and how many there are, however large the kernel is


class Axis(NamedTuple):
    """One axis of an ``extent`` cut into blocks: of ``outputs`` by ``inputs``, ``dilation`` apart.

    Each of its phases is cut for itself.
    """

    outputs: int
    inputs: int
    dilation: int
    extent: int

    @property
    def _phases(self) -> tuple[range, ...]:
        """Where the outputs of every phase are."""
        return tuple(range(phase, self.extent, self.dilation) for phase in range(min(self.dilation, self.extent)))

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return sum(-(-len(phase) // self.outputs) for phase in self._phases)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each block begins."""
        return tuple(start for phase in self._phases for start in phase[:: self.outputs])

    @property
    def inside(self) -> tuple[int, ...]:
        """How many outputs of each block there are."""
        some = self.outputs
        return tuple(min(some, len(phase) - i) for phase in self._phases for i in range(0, len(phase), some))

    def found(self, low: int, size: int) -> list[tuple[int, int]]:
        """The first input of each block that an image has, behind a margin of ``low``, and the one after the last."""
        ends = ([-(-(end - start) // self.dilation) for end in (low, low + size)] for start in self.starts)
        return [(max(first, 0), min(last, self.inputs)) for first, last in ends]


def axis_of(outputs: int, m: int, r: int, dilation: int) -> Axis:
    """An axis of ``outputs`` in all, in blocks of ``m`` that ``r`` taps meet."""
    return Axis(m, m + r - 1, dilation, outputs)


def _axes_of(p: ConvProblem, m: tuple[int, ...]) -> tuple[Axis, ...]:
    """Every axis of a problem without strides."""
    return tuple(map(axis_of, p.output_size, m, p.kernel, p.dilation))


class _Panels(NamedTuple):
    """The transformed kernel, ``(G, panels, points, C, width)``, flat, and how it is read."""

    w: Array
    block: Block
    lanes: int
    width: int
    bt: codelets.Matrices
    at: codelets.Matrices


def _product(p: ConvProblem, registers: int, lanes: int) -> tuple[Block, float]:
    """The product's block in registers, and the cycles of one point's product, of all channels and one row."""
    found, each = block(ENDLESS, -(-p.filters // lanes), 1, 1, registers, 6)
    return found, each / ENDLESS * p.channels


def _wide(p: ConvProblem, m: tuple[int, ...], registers: int) -> int:
    """Vectors that are transformed together."""
    longest = max(step + r - 1 for step, r in zip(m, p.kernel, strict=True))
    return max(1, min(4, (registers - 2) // (longest + 1)))


def _prepare(settings: Settings, w: Array, p: ConvProblem, xp: ModuleType) -> _Panels:
    """What :func:`_write` reads of a kernel ``(G, K, C, *kernel)``."""
    from ..compiled import blocks, microkernel

    m = settings.along(p)
    lanes = microkernel.VECTOR_BYTES // p.itemsize
    found, _ = _product(p, microkernel.REGISTERS, lanes)
    width, wide = found.vectors * lanes, _wide(p, m, microkernel.REGISTERS)
    inputs = [step + r - 1 for step, r in zip(m, p.kernel, strict=True)]
    points, panels = math.prod(inputs), -(-p.filters // width)
    at, g, bt = codelets_of(m, p.kernel, settings.points, p.dtype)
    packed = aligned((points * p.groups * panels * p.channels * width,), w.dtype)
    if p.filters % width:  # what nobody fills
        packed[...] = 0
    weights, (w_group, _, w_channel, *w_space) = memory(w, 1)
    ways = _steps(inputs, w_space, [p.channels * width * entry for entry in _apart(inputs)], width)
    table, w_lines, panel_lines = _lines(ways, p.kernel, inputs, xp)
    scratch = aligned((points * width,), w.dtype)
    blocks.kernel_panels(
        packed[0], g, (0,) * found.vectors, (table[None, ...], w_lines[None, ...], panel_lines),
        p.groups, p.channels, p.filters,
        (address(weights), w_group, w_channel), (address(packed), width, points), address(scratch),
    )  # fmt: skip
    return _Panels(packed, found, wide * lanes, width, bt, at)


def _apart(sizes: Sequence[int]) -> list[int]:
    """How far the entries of a block lie apart along each axis."""
    return [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]


class _Steps(NamedTuple):
    """How far entries lie apart, for every axis, where a transform of one axis reads and writes."""

    source: Sequence[int]
    target: Sequence[int]


def _steps(sizes: Sequence[int], first: Sequence[int], last: Sequence[int], lanes: int) -> list[_Steps]:
    """The transforms of all axes in order: from what lies ``first`` apart by way of workspace to what does ``last``."""
    within = [entry * lanes for entry in _apart(sizes)]
    n = len(sizes)
    return [_Steps(within if axis else first, within if axis < n - 1 else last) for axis in range(n)]


def _lines(
    ways: Sequence[_Steps], before: Sequence[int], after: Sequence[int], xp: ModuleType
) -> tuple[Array, Array, Array]:
    """What the loops are told of the transforms of a block whose axes are so long ``before`` and ``after``.

    The table ``(axes, 5)`` of :func:`polyconv.compiled.blocks.winograd`, and where lines begin here and there.
    """
    rows, lines = [], []
    for axis, way in enumerate(ways):
        lengths = [*after[:axis], *before[axis:]]
        others = [b for b in range(len(ways)) if b != axis]
        number = math.prod(lengths[b] for b in others)
        rows.append((way.source[axis], way.target[axis], after[axis], before[axis], number))
        lines.append([offsets(tuple(every(lengths[b], steps[b]) for b in others), xp) for steps in way])
    sources, targets = zip(*lines, strict=True)
    return xp.asarray(rows, dtype=xp.int64), padded_rows(sources, xp), padded_rows(targets, xp)


def _depth(channels: int, lanes: int) -> int:
    """Channels of a chunk: about :data:`DEPTH`, all chunks about alike, and whole vectors."""
    each = -(-channels // max(1, round(channels / DEPTH)))
    return -(-each // lanes) * lanes


def _together(p: ConvProblem, points: int, blocks: int, workers: int = 1) -> int:
    """Blocks between two transforms: as many as a cache holds, more where a large kernel is to be read for each.

    They are shared out evenly, among workers too, in whole rows of the product's block as far as may be.
    """
    (rows, vectors), _ = _product(p, REGISTERS, VECTOR_BYTES // p.itemsize)
    each = points * (p.channels * p.itemsize + vectors * VECTOR_BYTES)
    kernel = points * p.channels * p.filters * p.itemsize
    most = max(1, min(_BLOCK_BYTES + kernel // 4, _MOST_BYTES) // each)
    turns = -(-blocks // (most // rows * rows or most))
    turns = -(-turns * p.groups // workers) * workers // p.groups
    some = -(-blocks // turns)
    return min(-(-some // rows) * rows if most >= rows else some, blocks, _MANY)


def _turns(p: ConvProblem, m: tuple[int, ...], workers: int) -> tuple[int, int]:
    """How many blocks of all images are convolved together, and how often."""
    axes = _axes_of(p, m)
    blocks = p.batch * math.prod(axis.number for axis in axes)
    number = _together(p, math.prod(axis.inputs for axis in axes), blocks, workers)
    return number, -(-blocks // number)


def _units(settings: Settings, p: ConvProblem, workers: int) -> int:
    """How many units the loops have."""
    return _turns(p, settings.along(p), workers)[1] * p.groups


class _Tables(NamedTuple):
    """What the loops are told, see :func:`polyconv.compiled.blocks.winograd`; operands without their addresses."""

    x: tuple[int | Array, ...]
    there: tuple[Array, ...]
    y: tuple[int | Array, ...]
    back: tuple[Array, ...]


@lru_cache(maxsize=64)
def _tables(
    p: ConvProblem, m: tuple[int, ...], x_strides: tuple[int, ...], y_strides: tuple[int, ...],
    number: int, lanes: int, width: int, xp: ModuleType,
) -> _Tables:  # fmt: skip
    axes = _axes_of(p, m)
    inputs, outputs = [axis.inputs for axis in axes], [axis.outputs for axis in axes]
    x_space, y_space = x_strides[3:], y_strides[3:]

    def corners(space: tuple[int, ...], lows: Sequence[int]) -> Array:
        each = zip(axes, space, lows, strict=True)
        return offsets(tuple(tuple((i - low) * s for i in axis.starts) for axis, s, low in each), xp)

    def table(rows: Sequence[Sequence[int]]) -> Array:
        return xp.reshape(xp.asarray(rows, dtype=xp.int64), (len(rows), -1) if rows[0] else (len(rows), 0))

    pixels, results = ([a.dilation * s for a, s in zip(axes, space, strict=True)] for space in (x_space, y_space))
    image, products = ([entry * number * each for entry in _apart(inputs)] for each in (p.channels, width))
    lows = [low for low, _ in p.padding]
    found = [axis.found(low, size) for axis, low, size in zip(axes, lows, p.size, strict=True)]
    within = [entry * lanes for entry in _apart(inputs)]
    near, put = (_lines(_steps(inputs, first, image, lanes), inputs, inputs, xp) for first in (pixels, within))
    coordinates, last = (table([*product(*map(range, sizes))]) for sizes in (inputs, outputs[:-1]))
    inside = table([*product(*(axis.inside for axis in axes))])
    x_inside = xp.asarray([*product(*found)], dtype=xp.int64)
    x_pixels = offsets(tuple(map(every, inputs, pixels)), xp)
    return _Tables(
        (*x_strides[:2], corners(x_space, lows), x_inside, x_pixels, coordinates),
        (xp.stack([near[0], put[0]]), xp.stack([near[1], put[1]]), near[2]),
        (*y_strides[:2], corners(y_space, (0,) * p.ndim), inside),
        (*_lines(_steps(inputs, products, results, lanes), inputs, outputs, xp), last),
    )


def _write(
    settings: Settings, x: Array, kernel: _Panels, p: ConvProblem, xp: ModuleType, y: Array, workers: int = 1
) -> None:
    """Convolve into ``y``; ``p`` has no strides, and channels are innermost in memory."""
    from ..compiled import blocks, microkernel

    m = settings.along(p)
    axes = _axes_of(p, m)
    pixels, x_strides = memory(x, 2)
    result, y_strides = memory(y)
    points = math.prod(axis.inputs for axis in axes)
    number, turns = _turns(p, m, workers)
    (rows, vectors), lanes, vector = kernel.block, kernel.lanes, microkernel.VECTOR_BYTES // p.itemsize
    tables = _tables(p, m, x_strides, y_strides, number, lanes, kernel.width, xp)
    image = aligned((workers, (points * number + rows) * p.channels), x.dtype)
    products = aligned((workers, points * number * kernel.width), x.dtype)
    scratch = aligned((workers, (2 * points + 1) * lanes), x.dtype)
    scratch[:, 2 * points * lanes :] = 0
    past = (0,) if outgrows(result, microkernel.VECTOR_BYTES) else ()
    blocks.winograd(
        workers, turns * p.groups, kernel.bt, kernel.at, kernel.w[0],
        ((0,) * (lanes // vector), (0,) * rows, (0,) * vectors, past),
        p.batch, p.groups, p.filters, (p.channels, _depth(p.channels, vector), number, lanes),
        (address(pixels), *tables.x), tables.there, (address(kernel.w), kernel.width, points),
        (address(result), *tables.y), tables.back,
        tuple((address(room), room.strides[0]) for room in (image, products, scratch)),
    )  # fmt: skip


def _kept(p: ConvProblem, m: tuple[int, ...]) -> int:
    """Elements of a prepared kernel: panels are filled up with zeros."""
    lanes = VECTOR_BYTES // p.itemsize
    width = _product(p, REGISTERS, lanes)[0].vectors * lanes
    points = math.prod(step + r - 1 for step, r in zip(m, p.kernel, strict=True))
    return points * p.groups * p.channels * -(-p.filters // width) * width


def _cost(settings: Settings, p: ConvProblem) -> Cost:
    m = settings.along(p)
    axes, lanes = _axes_of(p, m), VECTOR_BYTES // p.itemsize
    inputs, outputs = [axis.inputs for axis in axes], [axis.outputs for axis in axes]
    number, points = p.batch * math.prod(axis.number for axis in axes), math.prod(inputs)
    (rows, vectors), product_cycles = _product(p, REGISTERS, lanes)
    wide = _wide(p, m, REGISTERS)
    # A line of a block and a stretch of channels. As measured, of 4 to 10 points: the longer lines are, the further
    # apart and the deeper in the caches is what they read, so that they take longer than their products.
    there = sum(points // n * (n * n * n * wide / 4 + _LINE) for n in inputs)
    lines = [math.prod(outputs[:axis]) * math.prod(inputs[axis + 1 :]) for axis in range(p.ndim)]
    back = sum(line * (n * n * k * wide / 4 + _LINE) for line, n, k in zip(lines, inputs, outputs, strict=True))
    stretches = [-(-channels // (wide * lanes)) for channels in (p.channels, p.filters)]
    some = _together(p, points, number)
    turns, left = divmod(number, some)
    filled = (turns * -(-some // rows) + -(-left // rows)) * rows
    cycles = p.groups * number * (there * stretches[0] + back * stretches[1])
    cycles += p.groups * filled * points * product_cycles
    multiplied = number * p.groups * points
    forth = sum(points * n for n in inputs) * p.channels
    turns = sum(line * n * k for line, n, k in zip(lines, inputs, outputs, strict=True)) * p.filters
    kernel = points * p.groups * p.channels * p.filters
    # Blocks are written and read where a near cache does not hold a batch of them, and for each batch the kernel is,
    # while products are made.
    batch = points * some * (p.channels * p.itemsize + vectors * VECTOR_BYTES)
    through = int(2 * multiplied * (p.channels + p.filters) * max(0.0, 1 - _NEAR_BYTES / batch))
    through += kernel * -(-number // some) // _HIDDEN
    own = batch + 14 * p.channels * p.itemsize + (2 * points + 1) * wide * VECTOR_BYTES
    return with_error(
        Cost(
            loop_slots=int(2 * lanes * cycles),
            other_flops=2 * (multiplied * p.channels * p.filters + number * p.groups * (forth + turns)),
            traffic=(p.image_elements + p.output_elements + through) * p.itemsize,
            runs=0,
            calls=30,
            each=own,
            workspace=own + 8 * (number // p.batch) * (2 + 3 * p.ndim),
        ),
        settings,
        p,
    )


def _prepare_cost(settings: Settings, problem: ConvProblem) -> Cost:
    p = replace(problem, dilation=(1,) * problem.ndim)
    kept, item = _kept(problem, settings.along(problem)), problem.itemsize
    return Cost(
        other_flops=2 * transform_macs(design_of(settings, p).G, p.kernel_elements),
        traffic=(4 * p.kernel_elements + 2 * kept) * item,
        runs=p.kernel_elements // 4 + kept // 64,
        calls=30,
        workspace=(2 * p.kernel_elements + kept) * item,
        kept=kept * item,
    )


def _reject(settings: Settings, problem: ConvProblem, target: Target) -> str | None:
    if reason := uncompiled(problem, target):
        return reason
    if any(step != 1 for step in problem.stride):
        return "fused winograd takes no strides"
    return refusal(settings, problem, target)


FUSED = Way(_reject, _prepare, _prepare_cost, _cost, _write, _units, None)
