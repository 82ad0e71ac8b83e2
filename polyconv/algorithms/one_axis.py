"""Winograd's method along one axis, and the definition along all others: compiled, for few channels and for strides.

Transforms along two axes are of every pixel and of every output; where an image has few channels, or a group has, the
products between are too few to pay for them, and too small a sum for a block of the micro-kernel. Along one axis, the
last but one, rows of the image are transformed as wholes, and each meets the transformed kernel as the definition says.
``F(4, 3)`` takes half the products then, where along two axes it takes a quarter. A stride along that axis makes as
many phases, which are summed as channels are (:mod:`polyconv.algorithms.phases`); strides along others are no matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, address, aligned, every, memory, offsets, outgrows
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from . import phases
from .base import Cost
from .blocking import REGISTERS, VECTOR_BYTES
from .fused import axis_of
from .minimal import Settings, Way, axis_matrices, codelets_of, designed, refusal, uncompiled

if TYPE_CHECKING:
    from ..compiled import codelets
    from ..target import Target

__all__ = ["ONE_AXIS", "along_one"]

_STRIP = 32  # outputs at a time, at most
_STRIP_BYTES = 40 * 2**10  # of their products, which the nearest cache keeps
_PANEL = 4  # vectors of filters at a time, at most: what they leave is stored side by side
_PIXEL_BYTES = 512  # of a pixel that are worth reading at once
_NEAR_BYTES, _FAR_BYTES = 2**15, 3 * 2**18  # of a kernel that the nearest cache holds, and the next


def along_one(m: Sequence[int]) -> bool:
    """Whether blocks of ``m`` outputs are of one along every axis but the last but one."""
    return len(m) > 1 and max((*m[:-2], m[-1])) == 1 < m[-2]


class _Blocks(NamedTuple):
    """Blocks of ``outputs`` along the last axis but one: ``taps`` of each of its ``phases``, and ``points``."""

    outputs: int
    taps: int
    phases: int

    @property
    def points(self) -> int:
        """Rows that are transformed together, of each phase."""
        return self.outputs + self.taps - 1


def _blocks(settings: Settings, p: ConvProblem) -> _Blocks:
    return _Blocks(settings.along(p)[-2], -(-p.kernel[-2] // p.stride[-2]), p.stride[-2])


class _Passes(NamedTuple):
    """Taps that lie side by side in a row: how many, in how many passes, and the taps and the outputs of each."""

    run: int
    number: int
    several: int
    together: int


def _passes(p: ConvProblem, registers: int) -> _Passes:
    run = p.channels * (p.kernel[-1] if p.dilation[-1] == 1 else 1)
    together = 4 if registers > 16 else 2
    number = -(-run // (registers - together - 4))
    return _Passes(run, number, -(-run // number), together)


def _shared(p: ConvProblem, passes: _Passes, registers: int) -> int:
    """By how much windows are apart, if what several of them see is loaded once and stays in registers; or zero."""
    step = p.stride[-1] * p.channels
    held = passes.several + passes.together + (passes.together - 1) * step + 1
    return step if step < passes.several and held < registers else 0


def _panel(p: ConvProblem, lanes: int) -> int:
    """Vectors of filters whose products are made before any is transformed back: all panels about alike."""
    vectors = -(-p.filters // lanes)
    return -(-vectors // -(-vectors // _PANEL))


def _strip(p: ConvProblem, cut: _Blocks, together: int) -> int:
    """Outputs at a time: all strips about alike."""
    lanes, outputs = VECTOR_BYTES // p.itemsize, p.output_size[-1]
    held = cut.points * _panel(p, lanes) * VECTOR_BYTES
    each = -(-outputs // -(-outputs // max(together, min(_STRIP, _STRIP_BYTES // held))))
    return -(-each // together) * together


def _bundle(p: ConvProblem) -> int:
    """Groups at a time: what lies side by side in memory is read together."""
    return min(p.groups, max(1, _PIXEL_BYTES // (p.channels * p.itemsize)))


# -- the kernel ----------------------------------------------------------------------------------------------


class _Kernel(NamedTuple):
    """The transformed kernel, ``(G, vectors of filters, points, passes, several, lanes)``, flat; other transforms."""

    w: Array
    bt: codelets.Matrices
    at: codelets.Matrices


def _prepare(settings: Settings, w: Array, p: ConvProblem, xp: ModuleType) -> _Kernel:
    from ..compiled import microkernel

    cut, lanes = _blocks(settings, p), microkernel.VECTOR_BYTES // p.itemsize
    run, number, several, _ = _passes(p, microkernel.REGISTERS)
    _, g, _ = axis_matrices(cut.outputs, cut.taps, settings.points, p.dtype)
    at, _, bt = codelets_of((cut.outputs,), (cut.taps,), settings.points, p.dtype)
    strides = tuple(s if axis == p.ndim - 2 else 1 for axis, s in enumerate(p.stride))
    w = phases.split_kernel(w, replace(p, stride=strides, dilation=(1,) * p.ndim), xp)
    axis, others = 1 + p.ndim, range(3, 1 + p.ndim)  # that of blocks, and those before
    rows = xp.matmul(g, xp.reshape(xp.permute_dims(w, (axis, 0, 1, 2, *others, axis + 1)), (cut.taps, -1)))
    rows = xp.reshape(rows, (cut.points, p.groups, p.filters, cut.phases, p.channels, -1, p.kernel[-1]))
    rows = xp.reshape(xp.permute_dims(rows, (1, 0, 5, 3, 6, 4, 2)), (p.groups, cut.points, -1, run, p.filters))
    vectors = -(-p.filters // lanes)
    packed = aligned((p.groups, vectors, cut.points, rows.shape[2], number * several, lanes), w.dtype)
    packed[...] = 0
    for vector in range(vectors):
        some = rows[..., vector * lanes : (vector + 1) * lanes]
        packed[:, vector, :, :, :run, : some.shape[-1]] = some
    return _Kernel(xp.reshape(packed, (-1,)), bt, at)


# -- the loops -----------------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """What the loops are told, see :mod:`polyconv.compiled.one_axis`; operands and workspace without their addresses.

    Of a workspace of so many elements, those that come first are zeros.
    """

    units: int
    code: tuple[tuple[int, ...], ...]
    size: int
    zeros: int
    vector: int
    lengths: tuple[Any, ...]
    x: tuple[Any, ...]
    y: tuple[Any, ...]
    blocks: tuple[Any, ...]
    passes: tuple[Any, ...]
    room: tuple[int, ...]


def _places(p: ConvProblem, x_space: Sequence[int], y_space: Sequence[int], xp: ModuleType) -> tuple[Array, Array]:
    """Where results begin on the axes before, and where an image does for each tap there: -1 where it has nothing."""
    lines, inside = xp.zeros((1, 1), dtype=xp.int64), xp.ones((1, 1), dtype=xp.bool)
    for axis in range(p.ndim - 2):
        outputs, taps = (xp.arange(n, dtype=xp.int64) for n in (p.output_size[axis], p.kernel[axis]))
        pixels = outputs[:, None] * p.stride[axis] + taps * p.dilation[axis] - p.padding[axis][0]
        shape = tuple(a * b for a, b in zip(lines.shape, pixels.shape, strict=True))
        within = (pixels >= 0) & (pixels < p.size[axis])
        inside = xp.reshape(inside[:, None, :, None] & within[:, None, :], shape)
        lines = xp.reshape(lines[:, None, :, None] + pixels[:, None, :] * x_space[axis], shape)
    places = offsets(tuple(map(every, p.output_size[:-2], y_space)), xp)
    return places, xp.where(inside, lines, -1)


class _Room(NamedTuple):
    """The workspace of a thread, in elements: transformed rows, a border, and products, ``size`` in all.

    A row of it is a ``line``, in which the taps of each pass begin at ``starts``; the other numbers say where what is
    named begins.
    """

    line: int
    starts: list[int]
    border: int
    products: int
    size: int


def _room(p: ConvProblem, cut: _Blocks, registers: int, lanes: int) -> _Room:
    passes = _passes(p, registers)
    strip = _strip(p, cut, passes.together)
    taps = [0] if p.dilation[-1] == 1 else [tap * p.dilation[-1] * p.channels for tap in range(p.kernel[-1])]
    outputs = -(-p.output_size[-1] // strip) * strip
    last = (outputs - 1) * p.stride[-1] * p.channels + taps[-1] + passes.number * passes.several
    line = -(-max(p.padded_size[-1] * p.channels, last) // lanes) * lanes
    border = _bundle(p) * cut.points * _rows(p, cut) * line
    products = border + (cut.points + 1) * lanes
    starts = [tap + i * passes.several for tap in taps for i in range(passes.number)]
    return _Room(line, starts, border, products, products + cut.points * strip * _panel(p, lanes) * lanes)


def _rows(p: ConvProblem, cut: _Blocks) -> int:
    """Rows of the image that meet in a block for each of its points: of all phases, for all taps on the axes before."""
    return math.prod(p.kernel[:-2]) * cut.phases


@lru_cache(maxsize=64)
def _told(
    settings: Settings, p: ConvProblem, x_strides: tuple[int, ...], y_strides: tuple[int, ...], xp: ModuleType
) -> _Told:
    from ..compiled import microkernel

    lanes, passes = microkernel.VECTOR_BYTES // p.itemsize, _passes(p, microkernel.REGISTERS)
    cut, strip = _blocks(settings, p), _strip(p, _blocks(settings, p), passes.together)
    (x_image, x_group, _, *x_space), (y_image, y_group, _, *y_space) = x_strides, y_strides
    along = axis_of(p.output_size[-2], cut.outputs, cut.taps, p.dilation[-2])
    low = p.padding[-2][0]
    first, inside = (xp.asarray(each, dtype=xp.int64) for each in (along.starts, along.inside))
    blocks = xp.stack([first * p.stride[-2] - low, first * y_space[-2], inside], axis=1)
    places, lines = _places(p, x_space, y_space, xp)
    room = _room(p, cut, microkernel.REGISTERS, lanes)
    runs = (1, 0, p.size[-1] * p.channels) if x_space[-1] == p.channels else (p.size[-1], x_space[-1], p.channels)
    passed = offsets((every(_rows(p, cut), room.line), room.starts), xp)
    return _Told(
        _units(settings, p, 1),
        ((0,) * passes.several, (0,) * passes.together, (0,) * _shared(p, passes, microkernel.REGISTERS)),
        room.size,
        room.products,
        microkernel.VECTOR_BYTES,
        (p.batch, (p.groups, _bundle(p)), (p.filters, _panel(p, lanes)), (p.output_size[-1], strip)),
        (x_image, x_group, x_space[-2], runs, lines),
        (y_image, y_group, y_space[-2] * p.dilation[-2], y_space[-1], places),
        (cut.points, cut.phases, p.stride[-2] * p.dilation[-2], p.size[-2], blocks),
        (passed, p.stride[-1] * p.channels),
        (room.line, p.padding[-1][0] * p.channels, room.border, room.products),
    )


def _write(
    settings: Settings, x: Array, kernel: _Kernel, p: ConvProblem, xp: ModuleType, y: Array, workers: int = 1
) -> None:
    """Convolve into ``y``; channels are innermost in memory."""
    from ..compiled import one_axis

    pixels, x_strides = memory(x, 2)
    result, y_strides = memory(y)
    told = _told(settings, p, x_strides, y_strides, xp)
    room = aligned((workers, told.size), x.dtype)
    room[:, : told.zeros] = 0
    past = (0,) if outgrows(result, told.vector) else ()
    one_axis.winograd(
        workers, told.units, kernel.bt, kernel.at, kernel.w[0], (*told.code, past), told.lengths,
        (address(pixels), *told.x), address(kernel.w), (address(result), *told.y),
        told.blocks, told.passes, (address(room), told.size, *told.room),
    )  # fmt: skip


def _units(settings: Settings, p: ConvProblem, workers: int) -> int:
    """How many units the loops have, whoever shares them: rows of blocks."""
    cut = _blocks(settings, p)
    rows = axis_of(p.output_size[-2], cut.outputs, cut.taps, p.dilation[-2]).number
    return p.batch * -(-p.groups // _bundle(p)) * math.prod(p.output_size[:-2]) * rows


# -- its cost ------------------------------------------------------------------------------------------------


def _cost(settings: Settings, p: ConvProblem) -> Cost:
    lanes, passes, cut = VECTOR_BYTES // p.itemsize, _passes(p, REGISTERS), _blocks(settings, p)
    strip, n, m = _strip(p, cut, passes.together), cut.points, cut.outputs
    rows, outputs = _rows(p, cut), p.output_size[-1]
    rooms = [_room(p, cut, registers, lanes) for registers in (REGISTERS, REGISTERS // 2)]  # whichever a processor has
    vectors, number = -(-p.filters // lanes), rows * len(rooms[0].starts)
    pixels = p.size[-1] * p.channels
    stretches, alone = (-(-pixels // lanes), 1) if p.groups == 1 else (p.size[-1] * -(-p.channels // lanes), p.size[-1])
    strips, rounded = -(-outputs // strip), -(-outputs // passes.together) * passes.together
    # As measured; a product takes half a cycle, and each pass some for its sums, and for its taps.
    there = rows * (stretches * (n * n / 2 + 8) + 25 * alone)
    loads = 0.1 if _shared(p, passes, REGISTERS) else 0.6
    swept = vectors * n * number * (rounded * (passes.several / 2 + loads) + strips * (passes.several / 2 + 20))
    back = vectors * outputs * (n * m / 4 + 4)
    # A kernel is read again for every strip.
    kernel = vectors * n * number * passes.several * VECTOR_BYTES
    read = strips * kernel / (64 if kernel <= _NEAR_BYTES else 32 if kernel * p.groups <= _FAR_BYTES else 12)
    bundle = _bundle(p)
    units = _units(settings, p, 1) * bundle  # of one group
    own = max(room.size for room in rooms) * p.itemsize + 64  # to where a line of the cache begins
    places = math.prod(p.output_size[:-2])
    blocks = units // (p.batch * bundle * -(-p.groups // bundle) * places)
    tables = 8 * (4 * max(len(room.starts) for room in rooms) * rows + (3 + 4 * rows) * places + 20 * blocks)
    design = designed((m,), (cut.taps,), settings.points, False)
    terms = p.channels * p.taps * cut.phases // p.kernel[-2]
    return Cost(
        loop_slots=int(2 * lanes * units * (there + swept + back + read)),
        other_flops=2 * units * n * (rows * n * pixels + outputs * p.filters * (number * passes.run + m)),
        traffic=(p.image_elements + p.output_elements) * p.itemsize,
        runs=0,
        calls=36,
        each=own,
        workspace=own + tables,
        error=roundoff(p.dtype) * summed(terms, 2.6) * design.amplification,
        spreads=True,
        grain=m * p.dilation[0] if p.ndim == 2 else 1,
    )


def _prepare_cost(settings: Settings, p: ConvProblem) -> Cost:
    cut, lanes = _blocks(settings, p), VECTOR_BYTES // p.itemsize
    every_pass = [_passes(p, registers) for registers in (REGISTERS, REGISTERS // 2)]
    lines = _rows(p, cut) * (1 if p.dilation[-1] == 1 else p.kernel[-1])
    taps = lines * max(passes.number * passes.several for passes in every_pass)
    kept = p.groups * -(-p.filters // lanes) * lanes * cut.points * taps
    taken = p.kernel_elements // p.kernel[-2] * cut.taps * cut.phases
    made = p.kernel_elements // p.kernel[-2] * cut.phases * cut.points
    return Cost(
        matmul_macs=made * cut.taps,
        traffic=(4 * taken + 4 * made + 2 * kept) * p.itemsize,
        runs=p.kernel_elements // 4 + kept // 64,
        calls=40,
        workspace=(2 * taken + 2 * made + kept) * p.itemsize,
        kept=kept * p.itemsize,
    )


def _reject(settings: Settings, p: ConvProblem, target: Target) -> str | None:
    if reason := uncompiled(p, target):
        return reason
    if isinstance(settings.m, int) or len(settings.m) != p.ndim:
        return refusal(settings, p, target)
    if p.stride[-2] > 1 and p.dilation[-2] > 1:
        return "fused winograd along one axis takes no stride and dilation along it at once"
    if p.kernel[-2] <= p.stride[-2]:
        few = "no more taps than the stride" if p.kernel[-2] > 1 else "one tap"
        return f"fused winograd along one axis has nothing to save where the kernel has {few} along it"
    alone = replace(p, kernel=(*(1,) * (p.ndim - 2), p.kernel[-2], 1))  # other axes need no points
    return refusal(settings, alone, target)


ONE_AXIS = Way(_reject, _prepare, _prepare_cost, _cost, _write, _units, None)
