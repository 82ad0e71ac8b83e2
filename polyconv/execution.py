"""The road that data takes, once and in one direction: from the caller's arrays to the result.

    pad -> cast -> the problem's axes -> the algorithm -> bias -> cast -> the caller's axes

:func:`road` lays it for a call. What would change nothing is left out, so that a small image on a straight road
costs little more than its arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from .algorithms import Algorithm
from .arguments import Call
from .arrays import Array, contiguous, plain
from .padding import pad
from .tiling import Tile, convolve, whole

__all__ = ["Road", "road", "road_workspace"]

Step = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Road:
    """The steps of each array, in order, and the convolution between them.

    ``image`` leads from the caller's image to ``(N, G, C, *padded size)`` in the dtype of the sums, ``kernel`` from
    the caller's kernel to ``(G, K, C, *kernel)``, ``bias`` to ``(G, K, 1, ...)``, which is added, and ``result`` back.
    """

    image: tuple[Step, ...]
    kernel: tuple[Step, ...]
    bias: tuple[Step, ...]
    convolve: Callable[[Array, Array], Array]
    add: Callable[[Array, Array], Array]
    result: tuple[Step, ...]

    def __call__(self, x: Array, w: Array, bias: Array | None) -> Array:
        """Convolve arrays that fit; the result is contiguous in the caller's layout."""
        for step in self.image:
            x = step(x)
        for step in self.kernel:
            w = step(w)
        y = self.convolve(x, w)
        if bias is not None:
            for step in self.bias:
                bias = step(bias)
            y = self.add(y, bias)
        for step in self.result:
            y = step(y)
        return y


def road(call: Call, algorithm: Algorithm, tile: Tile) -> Road:
    """The road of ``call`` through ``algorithm``, tile by tile."""
    p, xp, total = call.problem, call.x.xp, call.dtypes.total
    image_shape = (p.batch, p.groups, p.channels, *p.padded_size)
    kernel_shape = (p.groups, p.filters, p.channels, *p.kernel)
    padded = tuple(n + low + high for n, (low, high) in zip(call.x.shape, call.pad_widths, strict=True))

    def cast(before: object, after: object) -> list[Step]:
        return [] if before == after else [lambda a: xp.astype(a, after)]

    def permute(axes: tuple[int, ...]) -> list[Step]:
        return [] if axes == tuple(range(len(axes))) else [lambda a: xp.permute_dims(a, axes)]

    def reshape(before: tuple[int, ...], after: tuple[int, ...]) -> list[Step]:
        return [] if before == after else [lambda a: xp.reshape(a, after)]

    def at_once(x: Array, w: Array) -> Array:
        return algorithm.run(x, w, padded_problem, xp)

    def tile_by_tile(x: Array, w: Array) -> Array:
        return convolve(algorithm, x, w, padded_problem, tile, xp)

    def sums_of_nothing(x: Array, w: Array) -> Array:
        return xp.zeros(p.result_shape, dtype=total, device=call.x.device)

    padded_problem = p.padded
    pads: list[Step] = [lambda x: pad(x, call.pad_widths, p.padding_mode, xp)] if padded != call.x.shape else []
    flips: list[Step] = [lambda w: xp.flip(w, axis=tuple(range(3, 3 + p.ndim)))] if call.flip_kernel else []
    image_before_reshape = tuple(padded[axis] for axis in call.image_axes)
    kernel_before_reshape = tuple(call.w.shape[axis] for axis in call.kernel_axes)
    return Road(
        image=(
            plain,
            *pads,
            *cast(call.x.dtype, total),
            *permute(call.image_axes),
            *reshape(image_before_reshape, image_shape),
        ),
        kernel=(
            plain,
            *cast(call.w.dtype, total),
            *permute(call.kernel_axes),
            *reshape(kernel_before_reshape, kernel_shape),
            *flips,
        ),
        bias=(plain, lambda b: xp.astype(xp.reshape(b, (p.groups, p.filters, *(1,) * p.ndim)), total)),
        convolve=sums_of_nothing if not p.macs else at_once if tile == whole(padded_problem) else tile_by_tile,
        add=operator.iadd if call.x.library.in_place else operator.add,
        result=(
            *cast(total, call.dtypes.result),
            *permute(call.output_axes),
            *reshape(tuple(p.result_shape[axis] for axis in call.output_axes), call.output_shape),
            contiguous,
        ),
    )


def road_workspace(call: Call) -> int:
    """Bytes that the road needs at most beside the algorithm: what is padded, cast or put in another order is copied.

    A result whose layout is the order in which algorithms leave it in memory is in its order already.
    """
    p = call.problem
    image = any(map(any, p.padding)) + bool(call.x.dtype != call.dtypes.total)
    result = bool(call.dtypes.result != call.dtypes.total) + (call.output_axes != p.memory_order)
    return p.itemsize * (image * p.image_elements + 2 * p.kernel_elements + result * p.output_elements)
