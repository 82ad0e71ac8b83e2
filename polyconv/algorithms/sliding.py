"""One filter for one channel, compiled: kernels slide over channels or planes, and a pixel loaded serves many outputs.

A depthwise layer has so few products that loading is what takes time. A block of neighbouring outputs is held in
registers, and met by some taps of one line of the kernel at a time: where outputs are as far apart as taps, the
pixel that the first output sees with the second tap is the one that the second output sees with the first (Zhang, Lo &
Lu, "High performance depthwise and pointwise convolutions on mobile devices", AAAI 2020, on ARM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array, address, aligned, every, memory, offsets
from ..problem import ConvProblem
from .blocking import TALL
from .edges import Run, runs

__all__ = ["Lines", "block", "over_channels", "prepare", "write"]

_SEVERAL = 8  # taps at a time, at most
_LINES = 128  # vectors of channels, times lines of taps, that a near cache keeps until the next outputs see them again


def _stretch(p: ConvProblem) -> int:
    """Vectors of channels at a time."""
    return max(8, min(16, _LINES // (p.taps // p.kernel[-1])))


class Block(NamedTuple):
    """How many neighbouring outputs are held in registers, and how many taps they meet at a time."""

    rows: int
    several: int


@lru_cache
def _block(outputs: int, taps: int, slides: bool, across: float, registers: int) -> tuple[Block, float]:
    """The best block for a run of ``outputs``, and the cycles of a vector of each, for one line of ``taps``.

    In a cycle a processor multiplies two vectors and loads two, or one that lies ``across`` lines of the cache, as
    pixels do; they are not quite hidden. A product takes four cycles until another can be added to it.
    """
    best, least = Block(1, 1), float("inf")

    def cycles(rows: int, several: int) -> float:
        loads = across * (rows + several - 1) + several
        return max(rows * several / 2, loads / 2, 4.0 * several) + loads / 8

    for several in range(1, min(taps, _SEVERAL) + 1 if slides else 2):
        for rows in range(1, min(outputs, registers - several - 2, TALL) + 1):
            line = taps // several * cycles(rows, several) + taps % several * cycles(rows, 1)
            if (total := -(-outputs // rows) * line) < least:
                best, least = Block(rows, several), total
    return best, least


def over_channels(p: ConvProblem) -> bool:
    """Whether vectors hold channels, and not positions in planes of their own."""
    return p.channels_last and p.groups > 1


def _along(p: ConvProblem) -> int:
    """The axis along which the kernel slides; in planes, whose vectors run along the last, the one before, or -1."""
    return p.ndim - 1 if over_channels(p) else p.ndim - 2


@lru_cache  # asked for in every call
def block(p: ConvProblem, registers: int, lanes: int) -> tuple[Block, float]:
    """The block for a problem, and the cycles that it takes in all, if nothing else does."""
    axis, extent = _along(p), p.groups if over_channels(p) else p.output_size[-1]
    outputs, taps, slides = 1, 1, False
    if axis >= 0:
        outputs = max((run.outputs for run in runs(p)[axis]), default=1)
        taps, slides = p.kernel[axis], p.stride[axis] == p.dilation[axis]
    found, cycles = _block(outputs, taps, slides, 1.5, registers)
    others = p.positions // (outputs if over_channels(p) else outputs * extent) * (1 if over_channels(p) else p.groups)
    return found, cycles * p.taps / taps * p.batch * others * -(-extent // lanes)


class Lines(NamedTuple):
    """A kernel, flat, and how many lanes a vector of it has.

    It is ``(panels of channels, taps, lanes)`` over channels, the last panel filled up with zeros, and ``(G, taps)``
    in planes.
    """

    w: Array
    lanes: int


def prepare(w: Array, p: ConvProblem, xp: ModuleType) -> Lines:
    """What :func:`write` reads of a kernel ``(G, 1, 1, *kernel)``."""
    from ..compiled import microkernel

    lanes = microkernel.VECTOR_BYTES // p.itemsize
    planes = xp.reshape(w, (p.groups, p.taps))
    if over_channels(p):
        own = aligned((-(-p.groups // lanes), p.taps, lanes), w.dtype)
        whole, rest = divmod(p.groups, lanes)
        some = xp.reshape(planes[: whole * lanes, :], (whole, lanes, p.taps))
        own[:whole, ...] = xp.permute_dims(some, (0, 2, 1))
        if rest:
            own[whole, :, :rest] = planes[whole * lanes :, :].T
            own[whole, :, rest:] = 0
    else:
        own = aligned(planes.shape, w.dtype)
        own[...] = planes
    return Lines(xp.reshape(own, (-1,)), lanes)


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
    images: tuple[int, int, int]
    planes: tuple[int, int, int, int]
    w_along: int
    extent: int
    stretch: int


@lru_cache(maxsize=64)
def _tables(p: ConvProblem, x_strides: tuple[int, ...], y_strides: tuple[int, ...], xp: ModuleType) -> _Tables:
    from ..compiled import microkernel

    axis, inner = _along(p), microkernel.VECTOR_BYTES // p.itemsize if over_channels(p) else 1
    x_image, x_group, _, *x_space = x_strides
    y_image, y_group, _, *y_space = y_strides
    w_space = [math.prod(p.kernel[a + 1 :]) * inner for a in range(p.ndim)]
    others = [a for a in range(p.ndim) if a != axis]

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
        x_lines.append(offsets(tuple(taps(a, run) for a, run in zip(others, some, strict=True)), xp))
        steps = zip(others, some, strict=True)
        w_lines.append(offsets(tuple(every(run.tap + run.taps, w_space[a])[run.tap :] for a, run in steps), xp))
        # Vectors run along the last axis of a plane by themselves.
        counted = [(a, run) for a, run in zip(others, some, strict=True) if over_channels(p) or a < p.ndim - 1]
        for at in product(*(range(run.outputs) for _, run in counted)):
            x = sum((run.start + i * p.stride[a]) * x_space[a] for i, (a, run) in zip(at, counted, strict=True))
            y = sum((run.first + i) * y_space[a] for i, (a, run) in zip(at, counted, strict=True))
            outer.append((x, y, begin, begin + x_lines[-1].shape[0]))
    here = runs(p)[axis] if axis >= 0 else (Run(0, 1, 0, 1, 0),)
    x_row, y_row, w_tap = (x_space[axis], y_space[axis], w_space[axis]) if axis >= 0 else (0, 0, 0)
    along = [(run.start * x_row, run.first * y_row, run.outputs, run.tap * w_tap, run.taps) for run in here]
    return _Tables(
        xp.concat(x_lines),
        xp.concat(w_lines),
        x_row * (p.stride[axis] if axis >= 0 else 0),
        x_row * (p.dilation[axis] if axis >= 0 else 0),
        w_tap,
        y_row,
        xp.asarray(sorted(outer, key=lambda row: row[1]), dtype=xp.int64),
        xp.asarray(along, dtype=xp.int64),
        (p.batch, x_image, y_image),
        (1, 0, 0, 0) if over_channels(p) else (p.groups, x_group, y_group, p.taps),
        p.taps if over_channels(p) else 0,
        p.groups if over_channels(p) else p.output_size[-1],
        _stretch(p) * inner if over_channels(p) else p.output_size[-1],
    )


def write(x: Array, kernel: Lines, p: ConvProblem, xp: ModuleType, y: Array) -> None:
    """Convolve into ``y``; where vectors run along the last axis of ``x``, its strides have been unzipped."""
    from ..compiled import loops, microkernel

    pixels, x_strides = memory(x, 1 if over_channels(p) else -1)
    result, y_strides = memory(y)
    # Margins cut lines of outputs in runs, which are all that a block may cover: a kernel that is prepared has none.
    rows, several = block(p, microkernel.REGISTERS, kernel.lanes)[0]
    loops.over_lines(
        kernel.w[0], (0,) * rows, (0,) * several, () if over_channels(p) else (0,),
        *map(address, (pixels, kernel.w, result)), *_tables(p, x_strides, y_strides, xp), kernel.lanes,
    )  # fmt: skip
