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

from ..arrays import Array, address, joined, memory, new
from ..problem import ConvProblem
from .base import Algorithm, Cost
from .blocking import VECTOR_BYTES

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["channels_innermost", "interleave", "interleaved", "turning"]

_TURN = 100  # cycles, in which a block is turned


def interleave(x: Array, y: Array, back: bool = False) -> None:
    """Copy from memory with space innermost to memory with channels so, or ``back``; ``(N, G, C, *size)`` both.

    The axis that is to be innermost in ``y`` must be contiguous there, if it is longer than one.
    """
    from ..compiled import loops

    together = [a for a in (joined(x, 1, 3), joined(y, 1, 3)) if a is not None]
    if len(together) == 2:  # the channels of all groups are one axis in both
        x, y = (a[:, None] for a in together)
    source, x_strides = memory(x, 2 if back else -1)
    target, y_strides = memory(y)
    shape, planes = x.shape, y_strides if back else x_strides
    if planes[-1] == 1:
        while len(shape) > 4 and all(s[-2] == s[-1] * shape[-1] for s in (x_strides, y_strides)):  # one axis, in memory
            shape = (*shape[:-2], shape[-2] * shape[-1])
            x_strides, y_strides = ((*s[:-2], s[-1]) for s in (x_strides, y_strides))
    loops.interleave(x.dtype.type(0), address(source), x_strides, address(target), y_strides, shape, back)


def channels_innermost(x: Array, axis: int, xp: ModuleType) -> tuple[Array, tuple[int, ...]]:
    """An image as compiled loops take it whose vectors hold channels, and its strides in elements.

    ``axis`` is 2 or, of groups of one channel each, 1. What has planes in memory is interleaved.
    """
    rows = x.strides[-1] == x.itemsize and min(x.strides) >= 0 and x.flags.aligned  # or they would be copied first
    if rows and x.shape[axis] > 1 and x.strides[axis] != x.itemsize:
        image, x = x, new(xp.empty, x.shape, (0, *range(3, x.ndim), 1, 2), x.dtype, None, xp)
        interleave(image, x)
    return memory(x, axis)


def turning(p: ConvProblem, channels: int, size: tuple[int, ...]) -> int:
    """Products that could be begun in the time in which images of so many ``channels`` to a group are interleaved."""
    lanes = VECTOR_BYTES // p.itemsize
    return 2 * lanes * p.batch * -(-p.groups * channels // lanes) * -(-math.prod(size) // lanes) * _TURN


@lru_cache  # asked for with every tile
def _turned(p: ConvProblem) -> ConvProblem:
    """The same problem, of images whose channels are innermost in memory."""
    return replace(p, channels_last=True)


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
        there = algorithm.cost(_turned(p))
        copied = (p.batch * p.groups * p.channels * math.prod(p.size) + p.output_elements) * p.itemsize
        both = (p.channels, p.size), (p.filters, p.output_size)
        turned = sum(turning(p, channels, size) for channels, size in both)
        return replace(
            there,
            loop_slots=there.loop_slots + turned,
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
