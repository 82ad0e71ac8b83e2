"""The kernel's gradient, compiled: products of pixels and of the gradients of outputs, summed over all positions.

What a tap of a channel is worth to a filter is a sum as long as the images have outputs, and such sums are few. So they
stay in registers while a stretch of an image streams past, and in cache between one stretch and the next (Georganas et
al., "Anatomy of high-performance deep learning convolutions on SIMD architectures", SC 2018). Outputs that see the same
taps are taken together (:mod:`.edges`), and the zeros around the image are met by none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array, address, aligned, every, memory, offsets
from ..padding import pad
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from .base import Cost
from .blocking import REGISTERS, SOME, VECTOR_BYTES, Block, block
from .edges import runs
from .interleaved import channels_innermost, turning

__all__ = ["cost", "sums"]

_STRETCH = 128  # positions at a time: their part of image and gradient stays in a near cache
_KEPT = 2**18  # bytes of sums at a time, which stay in a cache while the images go by
_BETWEEN = 8  # positions that take as long as it does to load and store a block of sums
_REGIONS = 32  # parts of the result that are worth a loop of their own


def _own(p: ConvProblem) -> bool:
    """Whether vectors hold channels that have one filter each, and not filters."""
    return p.channels == p.filters == 1


def _extent(p: ConvProblem) -> int:
    return p.groups if _own(p) else p.filters


def _blocked(p: ConvProblem, registers: int, lanes: int) -> tuple[Block, float]:
    """The block of sums, and the cycles that one position takes with all of them."""
    vectors = -(-_extent(p) // lanes)
    if not _own(p):
        found, cycles = block(p.channels * p.taps, vectors, 1, 1, registers, SOME)
        return found, cycles * p.groups
    wide = min(2, vectors)  # lines of the cache come in pairs
    high = min(p.taps, SOME, (registers - 1) // wide - 1)
    loads = (high + 1) * wide  # every product loads a vector of its own
    return Block(high, wide), -(-p.taps // high) * -(-vectors // wide) * 0.6 * loads


def _strip(p: ConvProblem) -> int:
    """Channels at a time, whose sums stay in cache."""
    return min(p.channels, max(1, _KEPT // (p.taps * _extent(p) * p.itemsize)))


def _regions(p: ConvProblem) -> int:
    return math.prod(map(len, runs(p)))


class _Tables(NamedTuple):
    """What the loop is told beside the arrays, see :func:`polyconv.compiled.loops.sums_over_positions`."""

    x_rows: Array
    dw_rows: Array
    x_steps: Array
    dy_steps: Array
    stretches: Array
    regions: Array
    groups: tuple[int, int, int, int]
    x_channel: int
    dw_channel: int
    extent: int


def _stretches(axes: Sequence[tuple[int, int, int]], xp: ModuleType) -> tuple[Array, Array, Array]:
    """Axes, each as long as it is, with its steps in image and gradient, cut into stretches of about ``_STRETCH``.

    Where the positions of a stretch lie in both, and for each stretch where it begins and how many it has.
    """
    lengths: list[int] = []
    left = _STRETCH
    for extent, *_ in reversed(axes):
        parts = max(1, round(extent / max(1, left)))
        lengths.insert(0, -(-extent // parts))
        left = left // extent if parts == 1 else 0
    steps = [offsets(tuple(every(n, axis[i]) for n, axis in zip(lengths, axes, strict=True)), xp) for i in (1, 2)]
    begins = [range(0, extent, n) for n, (extent, *_) in zip(lengths, axes, strict=True)]
    firsts = [
        offsets(tuple([at * axis[i] for at in begin] for begin, axis in zip(begins, axes, strict=True)), xp)
        for i in (1, 2)
    ]
    number = xp.ones(1, dtype=xp.int64)
    for begin, n, (extent, *_) in zip(begins, lengths, axes, strict=True):
        some = xp.asarray([min(n, extent - at) for at in begin], dtype=xp.int64)
        number = xp.reshape(number[:, None] * some, (-1,))
    return (*steps, xp.stack([*firsts, number], axis=1))


@lru_cache(maxsize=64)
def _tables(p: ConvProblem, x_strides: tuple[int, ...], dy_strides: tuple[int, ...], xp: ModuleType) -> _Tables:
    extent, strip = _extent(p), _strip(p)
    x_image, x_group, x_channel, *x_space = x_strides
    dy_image, dy_group, _, *dy_space = dy_strides
    dw_channel = p.taps * extent
    dw_space = [math.prod(p.kernel[axis + 1 :]) * extent for axis in range(p.ndim)]
    x_steps = [stride * step for stride, step in zip(p.stride, x_space, strict=True)]
    x_taps = [d * step for d, step in zip(p.dilation, x_space, strict=True)]
    rest = p.channels % strip
    found: list[tuple[Array, ...]] = []
    regions, lengths = [], [0, 0, 0]
    for some in product(*runs(p)):
        if not all(run.taps for run in some):  # nothing is seen of the image
            continue
        outputs = [run.outputs for run in some]
        stretches = _stretches([(p.batch, x_image, dy_image), *zip(outputs, x_steps, dy_space, strict=True)], xp)
        x = sum(run.start * step for run, step in zip(some, x_space, strict=True))
        dy = sum(run.first * step for run, step in zip(some, dy_space, strict=True))
        dw = sum(run.tap * step for run, step in zip(some, dw_space, strict=True))
        for first, channels, each in ((0, p.channels - rest, strip), (p.channels - rest, rest, rest)):
            if not channels:
                continue
            rows = [(every(each, x_channel), every(each, dw_channel))]
            taps = [(every(run.taps, a), every(run.taps, b)) for run, a, b in zip(some, x_taps, dw_space, strict=True)]
            # The rows of a block are best neighbours in the image.
            rows = [*taps, *rows] if x_channel < x_space[-1] else [*rows, *taps]
            tables = (*(offsets(axes, xp) for axes in zip(*rows, strict=True)), *stretches)
            ends = [n + tables[table].shape[0] for n, table in zip(lengths, (0, 2, 4), strict=True)]
            places = [x + first * x_channel, dy, dw + first * dw_channel, channels, each]
            regions.append([*places, *(n for pair in zip(lengths, ends, strict=True) for n in pair)])
            lengths = ends
            found.append(tables)
    x_rows, dw_rows, x_offsets, dy_offsets, all_stretches = map(xp.concat, zip(*found, strict=True))
    return _Tables(
        x_rows,
        dw_rows,
        x_offsets,
        dy_offsets,
        all_stretches,
        xp.asarray(regions, dtype=xp.int64),
        (1, 0, 0, 0) if _own(p) else (p.groups, x_group, dy_group, p.channels * dw_channel),
        x_channel,
        dw_channel,
        extent,
    )


def sums(x: Array, dy: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """The gradient ``(G, K, C, *kernel)`` of an image ``(N, G, C, *size)`` and ``dy``, ``(N, G, K, *output_size)``.

    The image comes without the zeros that ``p`` says are around it; what it and ``dy`` hold is of ``p.dtype``.
    """
    from ..compiled import loops, microkernel

    if _regions(p) > _REGIONS:
        x, p = pad(x, [(0, 0)] * 3 + [*p.padding], "constant", xp), p.padded
    pixels, x_strides = channels_innermost(x, 1, xp) if _own(p) else memory(x)
    gradient, dy_strides = channels_innermost(dy, 1 if _own(p) else 2, xp)
    lanes, extent = microkernel.VECTOR_BYTES // p.itemsize, _extent(p)
    (rows, vectors), _ = _blocked(p, microkernel.REGISTERS, lanes)
    dw = aligned((1 if _own(p) else p.groups, p.channels, *p.kernel, extent), p.dtype)
    dw[...] = 0
    if any(all(run.taps for run in some) for some in product(*runs(p))):
        loops.sums_over_positions(
            dw[(0,) * dw.ndim], (0,) * rows, (0,) * vectors, () if _own(p) else (0,),
            *map(address, (pixels, gradient, dw)), *_tables(p, x_strides, dy_strides, xp), vectors * lanes,
        )  # fmt: skip
    last, rest = dw.ndim - 1, range(1, dw.ndim - 1)
    return xp.permute_dims(dw, (last, 0, *rest) if _own(p) else (0, last, *rest))


def cost(p: ConvProblem) -> Cost:
    """What :func:`sums` spends on a problem."""
    lanes = VECTOR_BYTES // p.itemsize
    _, cycles = _blocked(p, REGISTERS, lanes)
    positions, parts = p.batch * p.positions, _regions(p) - 1 - p.batch * p.positions // -_STRETCH
    padded = p.image_elements if _regions(p) > _REGIONS else 0
    tables = 48 * parts + 16 * _regions(p) * (_strip(p) * p.taps + 2 * _STRETCH)
    # What has no channels innermost is interleaved, and the image may be copied for its margins.
    of_x, of_dy = p.image_elements * _own(p), p.output_elements
    slots = int(2 * lanes * cycles * (positions + _BETWEEN * parts))
    turned = 0
    if not p.channels_last:
        turned = of_x + of_dy
        slots += turning(p, p.filters, p.output_size) + _own(p) * turning(p, p.channels, p.size)
    return Cost(
        other_flops=2 * p.macs,
        loop_slots=slots,
        traffic=(p.image_elements + of_dy + 2 * (padded + turned)) * p.itemsize,
        runs=0,
        calls=30,
        # Planning does not see strides, which may ask for copies.
        workspace=(2 * p.kernel_elements + padded + of_x + of_dy) * p.itemsize + tables,
        error=roundoff(p.dtype) * summed(positions, 0.1),
    )
