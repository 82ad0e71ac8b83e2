"""The road that data takes, once and in one direction: from the caller's arrays to the result.

    pad -> cast -> the problem's axes -> the algorithm -> bias -> cast -> the caller's axes

Where the image is cut into tiles, each is padded and cast by itself, and so is its result (:mod:`polyconv.tiling`).
The kernel's road ends in what the algorithm prepares of it, which may be kept and met by any number of images.
:func:`road` lays it for a call. What would change nothing is left out, so that a small image on a straight road
costs little more than its arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from .algorithms import Algorithm
from .arguments import Call
from .arrays import Array, contiguous, new, plain
from .dtypes import bytes_of
from .padding import pad
from .pool import blas_in_one_thread
from .tiling import Tile, Tiles, multiplies, whole

__all__ = ["Road", "road", "road_workspace"]

Step = Callable[[Array], Any]


@dataclass(frozen=True, slots=True)
class Road:
    """The steps of each array, in order, and the convolution between them.

    ``image`` leads from the caller's image to ``(N, G, C, *size)``, ``kernel`` from the caller's kernel to
    ``(G, K, C, *kernel)`` and what the algorithm prepares of it, ``bias`` to ``(G, K, 1, ...)``, and ``result`` from
    what the three make, ``(N, G, K, *output size)``, back to the caller. They are gone ``within`` a context where the
    library has one, and what the road ``wants`` is told to who finds no memory for it. Roads of one algorithm take
    each other's prepared kernels where they have the same ``form``.
    """

    image: tuple[Step, ...]
    kernel: tuple[Step, ...]
    bias: tuple[Step, ...]
    convolve: Callable[[Array, Any, Array | None], Array]
    result: tuple[Step, ...]
    copy: Step
    form: object
    within: Callable[[], AbstractContextManager[object]] | None = None
    wants: str = ""

    def _at_home(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work(*arguments)``, where the library's arrays must be worked with; who lacks memory is told what for."""
        try:
            if self.within is None:
                return work(*arguments)
            with self.within():
                return work(*arguments)
        except MemoryError as error:
            raise MemoryError(f"{error}; {self.wants}") from error

    def prepare(self, w: Array, bias: Array | None, keep: bool = False) -> tuple[Any, Array | None]:
        """The kernel and the bias as the convolution takes them; to ``keep``, nothing of the caller's own."""
        prepared: tuple[Any, Array | None] = self._at_home(self._prepare, w, bias, keep)
        return prepared

    def _prepare(self, w: Array, bias: Array | None, keep: bool) -> tuple[Any, Array | None]:
        if keep:
            w, bias = self.copy(w), None if bias is None else self.copy(bias)
        for step in self.kernel:
            w = step(w)
        if bias is not None:
            for step in self.bias:
                bias = step(bias)
        return w, bias

    def __call__(self, x: Array, kernel: Any, bias: Array | None) -> Array:
        """Convolve an image that fits with what :meth:`prepare` made; the result is contiguous, in its layout.

        Raises MemoryError, and says what the plan wants beside the image and the result, where that is not there.
        """
        return self._at_home(self._convolve, x, kernel, bias)

    def _convolve(self, x: Array, kernel: Any, bias: Array | None) -> Array:
        for step in self.image:
            x = step(x)
        y = self.convolve(x, kernel, bias)
        for step in self.result:
            y = step(y)
        return y


def road(call: Call, algorithm: Algorithm, tile: Tile, workers: int, workspace: int = 0) -> Road:
    """The road of ``call`` through ``algorithm``, tile by tile, on as many threads as there are ``workers``.

    ``workspace`` is what was predicted for it, in bytes.
    """
    p, xp, total = call.problem, call.x.xp, call.dtypes.total
    kernel_shape = (p.groups, p.filters, p.channels, *p.kernel)
    cut = tile != whole(p) or workers > 1
    add: Callable[[Array, Array], Array] = operator.iadd if call.x.library.in_place else operator.add
    pads_itself = algorithm.pads(p)
    seen = p if pads_itself else p.padded  # by an algorithm that is handed the whole image
    result = call.dtypes.result
    writes = algorithm.write is not None and not algorithm.stores  # of those that store, a result comes out new as well
    casts_image, casts_result = (algorithm.takes(dtype, total) for dtype in (call.x.dtype, result))
    padded = tuple(n + low + high for n, (low, high) in zip(call.x.shape, call.pad_widths, strict=True))

    def cast(before: object, after: object) -> list[Step]:
        return [] if before == after else [lambda a: a if a.dtype == after else xp.astype(a, after)]

    def permute(axes: tuple[int, ...]) -> list[Step]:
        return [] if axes == tuple(range(len(axes))) else [lambda a: xp.permute_dims(a, axes)]

    def reshape(before: tuple[int, ...], after: tuple[int, ...]) -> list[Step]:
        return [] if before == after else [lambda a: xp.reshape(a, after)]

    def at_once(x: Array, kernel: Any, bias: Array | None) -> Array:
        if bias is None and casts_result and writes:
            assert algorithm.write is not None
            y = new(xp.empty, p.result_shape, p.memory_order, result, call.x.device, xp)
            algorithm.write(x, kernel, seen, xp, y)
            return y
        y = algorithm.run(x, kernel, seen, xp)
        return y if bias is None else add(y, bias)

    tile_by_tile = Tiles(algorithm, p.local, tile, workers, call.dtypes, call.x.device, xp)

    def sums_of_nothing(x: Array, kernel: Any, bias: Array | None) -> Array:
        y = xp.zeros(p.result_shape, dtype=total, device=call.x.device)
        return y if bias is None else add(y, bias)

    if pads_itself or (cut and p.padding_mode == "constant"):
        padded = call.x.shape
    pads: list[Step] = [lambda x: pad(x, call.pad_widths, p.padding_mode, xp)] if padded != call.x.shape else []
    flips: list[Step] = [lambda w: xp.flip(w, axis=tuple(range(3, 3 + p.ndim)))] if call.flip_kernel else []

    def prepare(w: Array) -> Any:
        with blas_in_one_thread() if workers > 1 and multiplies(algorithm, p.padded) else nullcontext():
            if cut:
                return tile_by_tile.prepare(w)
            return w if algorithm.prepare is None else algorithm.prepare(w, p.padded, xp)

    prepares: list[Step] = [prepare] if (cut or algorithm.prepare is not None) and p.macs else []
    image_before_reshape = tuple(padded[axis] for axis in call.image_axes)
    image_shape = (p.batch, p.groups, p.channels, *(p.local if cut else seen).size)
    kernel_before_reshape = tuple(call.w.shape[axis] for axis in call.kernel_axes)
    return Road(
        image=(
            plain,
            *pads,
            *([] if cut or casts_image else cast(call.x.dtype, total)),
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
        convolve=sums_of_nothing if not p.macs else tile_by_tile if cut else at_once,
        result=(
            *([] if cut else cast(total, result)),
            *permute(call.output_axes),
            *reshape(tuple(p.result_shape[axis] for axis in call.output_axes), call.output_shape),
            contiguous,
        ),
        copy=lambda a: xp.astype(a, a.dtype, copy=True),
        form=(cut, tile.groups),
        within=None if call.x.library.within is None else partial(call.x.library.within, call.x.device),
        wants=f"{algorithm.name} wants {workspace} bytes beside image and result; max_workspace= asks for less",
    )


def road_workspace(call: Call, algorithm: Algorithm, cut: bool) -> int:
    """Bytes that the road needs at most beside the algorithm: what is padded, cast or put in another order is copied.

    A result whose layout is the order in which algorithms leave it in memory is in its order already. Of an image that
    is ``cut`` into tiles only margins that mirror it, or go round, are added to the whole.
    """
    p = call.problem
    image = 0
    if any(map(any, p.padding)) and not algorithm.pads(p) and not (cut and p.local is p):
        image += bytes_of(call.x.dtype)  # before it is cast
    if not cut and not algorithm.takes(call.x.dtype, call.dtypes.total):
        image += p.itemsize
    result = (call.output_axes != p.memory_order) * (bytes_of(call.dtypes.result) if cut else p.itemsize)
    if not cut and call.dtypes.result != call.dtypes.total:
        result += p.itemsize
    return image * p.image_elements + 2 * p.itemsize * p.kernel_elements + result * p.output_elements
