"""The road that data takes, once and in one direction: from the caller's arrays to the result.

    pad -> cast -> the problem's axes -> the algorithm -> bias -> cast -> the caller's axes

The kernel's road ends in what the algorithm prepares of it, which may be kept and met by any number of images.
:func:`road` lays it for a call. What would change nothing is left out, so that a small image on a straight road
costs little more than its arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from .algorithms import Algorithm
from .arguments import Call
from .arrays import Array, contiguous, plain
from .dtypes import bytes_of
from .padding import pad
from .pool import blas_in_one_thread
from .tiling import Tile, convolve, whole

__all__ = ["Road", "road", "road_workspace"]

Step = Callable[[Array], Any]


@dataclass(frozen=True, slots=True)
class Road:
    """The steps of each array, in order, and the convolution between them.

    ``image`` leads from the caller's image to ``(N, G, C, *padded size)`` in the dtype of the sums, ``kernel`` from
    the caller's kernel to ``(G, K, C, *kernel)`` and what the algorithm prepares of it, ``bias`` to ``(G, K, 1, ...)``,
    which is added, and ``result`` back.
    """

    image: tuple[Step, ...]
    kernel: tuple[Step, ...]
    bias: tuple[Step, ...]
    convolve: Callable[[Array, Any], Array]
    add: Callable[[Array, Array], Array]
    result: tuple[Step, ...]

    def prepare(self, w: Array, bias: Array | None) -> tuple[Any, Array | None]:
        """The kernel and the bias as the convolution takes them."""
        for step in self.kernel:
            w = step(w)
        if bias is not None:
            for step in self.bias:
                bias = step(bias)
        return w, bias

    def __call__(self, x: Array, kernel: Any, bias: Array | None) -> Array:
        """Convolve an image that fits with what :meth:`prepare` made; the result is contiguous, in its layout."""
        for step in self.image:
            x = step(x)
        y = self.convolve(x, kernel)
        if bias is not None:
            y = self.add(y, bias)
        for step in self.result:
            y = step(y)
        return y


def road(call: Call, algorithm: Algorithm, tile: Tile, workers: int) -> Road:
    """The road of ``call`` through ``algorithm``, tile by tile, on as many threads as there are ``workers``."""
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

    def at_once(x: Array, kernel: Any) -> Array:
        return algorithm.run(x, kernel, padded_problem, xp)

    def tile_by_tile(x: Array, kernel: Any) -> Array:
        return convolve(algorithm, x, kernel, padded_problem, tile, workers, xp)

    def sums_of_nothing(x: Array, kernel: Any) -> Array:
        return xp.zeros(p.result_shape, dtype=total, device=call.x.device)

    padded_problem = p.padded
    pads: list[Step] = [lambda x: pad(x, call.pad_widths, p.padding_mode, xp)] if padded != call.x.shape else []
    flips: list[Step] = [lambda w: xp.flip(w, axis=tuple(range(3, 3 + p.ndim)))] if call.flip_kernel else []
    make = algorithm.prepare

    def prepare(w: Array) -> Any:
        assert make is not None
        with blas_in_one_thread() if workers > 1 else nullcontext():
            return make(w, padded_problem, xp)

    prepares: list[Step] = [prepare] if make is not None and p.macs else []
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
            *prepares,
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
    image = p.itemsize * bool(call.x.dtype != call.dtypes.total)
    image += bytes_of(call.x.dtype) * any(map(any, p.padding))  # before it is cast
    result = bool(call.dtypes.result != call.dtypes.total) + (call.output_axes != p.memory_order)
    return image * p.image_elements + p.itemsize * (2 * p.kernel_elements + result * p.output_elements)
