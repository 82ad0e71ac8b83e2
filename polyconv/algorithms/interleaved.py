"""Images whose channels lie in planes, convolved by methods that want them interleaved.

Where space is innermost in memory, pixels of one channel are neighbours; loops whose vectors run along channels want
all channels of a pixel to be. A part of the image is interleaved, convolved while it is in cache, and its result put
back into planes: two passes of blocks of as many rows and columns as a vector has lanes, which are turned in registers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..arrays import Array, address, memory, new
from ..problem import ConvProblem
from .base import Algorithm, Cost
from .blocking import VECTOR_BYTES

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["interleave", "interleaved"]

_TURN = 100  # cycles, in which a block is turned


def interleave(x: Array, y: Array, back: bool = False) -> None:
    """Copy from memory with space innermost to memory with channels so, or ``back``; ``(N, G, C, *size)`` both.

    The axis that is to be innermost in ``y`` must be contiguous there, if it is longer than one.
    """
    from ..compiled import loops

    if x.shape[2] == 1:  # groups are the channels then
        x, y = (a.transpose(0, 2, 1, *range(3, a.ndim)) for a in (x, y))
    source, x_strides = memory(x, 2 if back else -1)
    target, y_strides = memory(y)
    shape, planes = x.shape, y_strides if back else x_strides
    if planes[-1] == 1:
        while len(shape) > 4 and all(s[-2] == s[-1] * shape[-1] for s in (x_strides, y_strides)):  # one axis, in memory
            shape = (*shape[:-2], shape[-2] * shape[-1])
            x_strides, y_strides = ((*s[:-2], s[-1]) for s in (x_strides, y_strides))
    loops.interleave(x.dtype.type(0), address(source), x_strides, address(target), y_strides, shape, back)


@lru_cache  # asked for with every tile
def _turned(p: ConvProblem) -> ConvProblem:
    """The same problem, of images whose channels are innermost in memory."""
    return replace(p, channels_last=True)


def _cycles(channels: int, size: tuple[int, ...], lanes: int) -> float:
    """Cycles in which an image of one group is interleaved."""
    return -(-channels // lanes) * -(-math.prod(size) // lanes) * _TURN


@lru_cache
def interleaved(algorithm: Algorithm) -> Algorithm:
    """``algorithm``, which has a ``write`` and wants channels innermost, for images where space is."""
    convolve, prepare, prepare_cost, absorbs = (
        algorithm.write, algorithm.prepare, algorithm.prepare_cost, algorithm.absorbs,
    )  # fmt: skip
    assert convolve is not None

    def write(x: Array, kernel: Any, p: ConvProblem, xp: ModuleType, y: Array) -> None:
        image, result = (new(xp.empty, a.shape, _turned(p).memory_order, a.dtype, None, xp) for a in (x, y))
        interleave(x, image)
        convolve(image, kernel, _turned(p), xp, result)
        interleave(result, y, back=True)

    def run(x: Array, kernel: Any, p: ConvProblem, xp: ModuleType) -> Array:
        y = new(xp.empty, p.result_shape, p.memory_order, x.dtype, None, xp)
        write(x, kernel, p, xp, y)
        return y

    def reject(p: ConvProblem, target: Target) -> str | None:
        if p.channels_last:
            return "channels of this image are interleaved as it is"
        return algorithm.reject(_turned(p), target)

    def cost(p: ConvProblem) -> Cost:
        there, lanes = algorithm.cost(_turned(p)), VECTOR_BYTES // p.itemsize
        copied = (p.batch * p.groups * p.channels * math.prod(p.size) + p.output_elements) * p.itemsize
        both = (p.channels, p.size), (p.filters, p.output_size)
        cycles = sum(_cycles(p.groups * channels, size, lanes) for channels, size in both)
        return replace(
            there,
            loop_slots=there.loop_slots + int(2 * lanes * p.batch * cycles),
            traffic=there.traffic + 2 * copied,
            workspace=there.workspace + copied,
        )

    return replace(
        algorithm,
        run=run,
        write=write,
        reject=reject,
        cost=cost,
        prepare=prepare and (lambda w, p, xp: prepare(w, _turned(p), xp)),
        prepare_cost=prepare_cost and (lambda p: prepare_cost(_turned(p))),
        absorbs=absorbs and (lambda p: absorbs(_turned(p))),
        detail=", ".join(filter(None, (algorithm.detail, "interleaved"))),
        shares=None,
        stores=True,
        kernel_grad=None,
        kernel_grad_cost=None,
        variants=None,
    )
