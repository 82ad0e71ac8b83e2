"""The gradient with respect to a kernel, in either of two ways, whichever promises to be the quicker.

It is a convolution: of the image with the result's gradient, channels standing for the batch, and stride and dilation
having changed places. Its kernel is as large as an image, though, and its result as small as a kernel, so an algorithm
may have a way of its own to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

from . import layouts, wisdom
from .arguments import Demands, read
from .arrays import Array, ArraySpec, describe
from .planning import Plan, Way, kernel_gradient, make_plan
from .pool import run_all
from .problem import ConvProblem
from .target import Target

__all__ = ["kernel_sums"]


def kernel_sums(x: Array, dy: Array, layout: str, p: ConvProblem, demands: Demands, dtype: Any) -> Array:
    """The gradient ``(O, I, *kernel)`` of an image, without the zeros around it, and ``dy``, both in ``layout``."""
    spec = describe(x, "x")
    way = _choice(spec, describe(dy, "dy"), layout, p, demands, dtype)
    if isinstance(way, _Convolution):
        return way(x, dy, p, spec.xp)
    xp, axes = spec.xp, _first(layout)
    x = xp.reshape(xp.permute_dims(x, axes), (p.batch, p.groups, p.channels, *p.size))
    dy = xp.reshape(xp.permute_dims(dy, axes), (p.batch, p.groups, p.filters, *p.output_size))
    return xp.reshape(_in_parts(x, dy, p, way, xp), (p.groups * p.filters, p.channels, *p.kernel))


def _first(layout: str) -> tuple[int, ...]:
    """The permutation that brings batch and channels before space."""
    return layouts.axes_in(layout, "NC" + layouts.spatial_letters(layout))


def _in_parts(x: Array, dy: Array, p: ConvProblem, way: Way, xp: ModuleType) -> Array:
    """``(G, K, C, *kernel)``, each thread taking some images, groups or channels."""
    made: list[Any] = [None] * way.workers

    def run(i: int) -> None:
        first, last = (way.shared * part // way.workers for part in (i, i + 1))
        extents = [p.batch, p.groups, p.channels]
        extents[way.axis] = last - first
        part = replace(p, batch=extents[0], groups=extents[1], channels=extents[2])
        some = (*(slice(None),) * way.axis, slice(first, last))
        made[i] = way.run(x[some], dy if way.axis == 2 else dy[some], part, xp)

    run_all([partial(run, i) for i in range(way.workers)], way.workers, blas=False, loops=True)
    if way.axis == 0:
        return sum(made[1:], made[0])
    return made[0] if way.workers == 1 else xp.concat(made, axis=0 if way.axis == 1 else 2)


@dataclass(frozen=True)
class _Convolution:
    """The gradient as a convolution: of what is ``seen`` of the image, in a layout with batch and channels swapped."""

    plan: Plan
    seen: tuple[slice, ...]

    def __call__(self, x: Array, dy: Array, p: ConvProblem, xp: ModuleType) -> Array:
        """The gradient ``(O, I, *kernel)``."""
        call, x = self.plan.call, x[self.seen]
        if p.groups > 1:
            x = xp.permute_dims(x, _first(call.kernel_layout.translate(str.maketrans("IO", "NC"))))
            x = xp.reshape(x, (p.batch, p.groups, p.channels, *x.shape[2:]))
            x = xp.reshape(xp.permute_dims(x, (2, 1, 0, *range(3, x.ndim))), call.x.shape)
        return xp.permute_dims(
            self.plan.run(x, dy, None), layouts.axes_in(call.layout, "CN" + layouts.spatial_letters(call.layout))
        )


@wisdom.heeding
def _choice(
    x: ArraySpec, dy: ArraySpec, layout: str, p: ConvProblem, demands: Demands, dtype: Any
) -> _Convolution | Way:
    """The way of least predicted time."""
    letters = layouts.spatial_letters(layout)
    # The pixels that any output sees and the zeros around them: neither more, nor fewer.
    inside, margins = zip(*(p.window(axis, 0, p.output_size[axis]) for axis in range(p.ndim)), strict=True)
    cuts = dict(zip(letters, inside, strict=True))
    seen = tuple(cuts.get(letter, slice(None)) for letter in layout)
    extents = {"N": p.batch, "C": p.channels} | {letter: cut.stop - cut.start for letter, cut in cuts.items()}
    swapped = layout.translate(str.maketrans("NC", "CN"))
    if p.groups > 1:  # the groups of channels go with the batch
        swapped, extents["N"] = "NC" + letters, p.groups * p.batch
    shape = tuple(extents[letter] for letter in swapped.translate(str.maketrans("NC", "CN")))
    call = read(
        x._replace(shape=shape), dy, stride=p.dilation, dilation=p.stride, padding=margins, groups=p.groups,
        layout=swapped, kernel_layout=layout.translate(str.maketrans("NC", "IO")), dtype=dtype, described=True,
    )  # fmt: skip
    same = all(dtype == x.dtype for dtype in (dy.dtype, *call.dtypes))  # byte order included
    way = kernel_gradient(p, Target.of(x, demands.workers), demands) if same else None
    try:
        convolution = _Convolution(make_plan(call, demands), seen)
    except ValueError:
        if way is None:
            raise
        return way
    return way if way is not None and way.seconds < convolution.plan.chosen.seconds else convolution
