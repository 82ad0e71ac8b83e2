"""Winograd's minimal filtering: blocks of the image and the kernel, transformed, multiplied point by point.

Lavin & Gray, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308), for any number of axes and any
block and kernel of no more than 24 points along each. Both transforms are matrix products, and so is the sum over
channels, one for each point: array operations alone. ``F(4, 3)`` along two axes takes 36 products for 16 outputs where
the definition takes 144; what is paid for it is a larger rounding error, and that a NaN spoils its whole block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, constant, device, new
from ..integers import integer, integers, is_sequence
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from . import phases
from .base import Algorithm, Cost
from .cook_toom import exact_points, winograd_transforms
from .fused import FUSED
from .interleaved import interleaved
from .minimal import (
    Settings,
    design_of,
    kernel_at_points,
    kernel_cost,
    matrices_of,
    most_held,
    refusal,
    transform_macs,
    transformed,
    wrapped,
)
from .one_axis import ONE_AXIS, along_one
from .overlap import assemble, blocks, gather
from .transforms import CUDA

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["WINOGRAD", "Winograd"]

_MOST_POINTS = 10  # beyond, not even float64 is left with an error worth having


def _divide(y: Array, divisor: int, p: ConvProblem) -> Array:
    """``y / divisor``, exactly, where ``y`` is a multiple of it modulo the range of the integers.

    Sums that have run over are right modulo the range, and stay so when multiplied by the inverse of the odd part of
    the divisor. Only its power of two must be divided out, so only that much room is lost.
    """
    power = divisor & -divisor
    inverse = pow(divisor // power, -1, 2 ** (8 * p.itemsize))
    return y * wrapped(inverse, p.dtype) // power


# -- the algorithm -------------------------------------------------------------------------------------------


def _prepare(settings: Settings, w: Array, problem: ConvProblem, xp: ModuleType) -> tuple[Any, ...]:
    """The kernel at every point, and the transforms of the image."""
    p = phases.unit(problem)
    at, _, bt = matrices_of(settings.along(p), p.kernel, settings.points, p.dtype)
    there = [[constant(a, xp, device(w)) for a in matrices] for matrices in (at, bt)]
    return kernel_at_points(settings, w, problem, xp), *there


def _run(settings: Settings, x: Array, kernel: tuple[Any, ...], problem: ConvProblem, xp: ModuleType) -> Array:
    """Blocks gathered, transformed, multiplied by the kernel over channels at each point, and transformed back.

    What one step leaves is held by the next alone, so that no more than two steps' arrays are alive at once.
    """
    p, n = phases.unit(problem), problem.ndim
    filters, at, bt = kernel
    m = settings.along(p)
    number = blocks(p, m).output_size
    every = p.batch * math.prod(number)

    def image() -> Array:
        view = gather(phases.split_image(x, problem, xp), p, m, xp)  # (N, G, C, *inputs, *number)
        inputs, space = range(3, 3 + n), range(3 + n, 3 + 2 * n)
        order = (*inputs, 1, 0, *space, 2) if p.channels_last else (*inputs, 1, 2, 0, *space)
        return transformed(bt, xp.permute_dims(view, order), xp)

    if p.channels_last:
        products = xp.matmul(xp.reshape(image(), (-1, p.groups, every, p.channels)), filters)
        shape = (*m, p.groups, p.batch, *number, p.filters)
        back = (n + 1, n, 2 * n + 2, *range(n + 2, 2 * n + 2), *range(n))
    else:
        products = xp.matmul(filters, xp.reshape(image(), (-1, p.groups, p.channels, every)))
        shape = (*m, p.groups, p.filters, p.batch, *number)
        back = (n + 2, n, n + 1, *range(n + 3, 2 * n + 3), *range(n))
    y = transformed(at, products, xp)
    del products
    if (divisor := design_of(settings, p).divisor) != 1:
        y = _divide(y, divisor, p)
    y = assemble(xp.permute_dims(xp.reshape(y, shape), back), p, xp)
    return phases.join(y, problem, xp)


# -- its cost ------------------------------------------------------------------------------------------------


class _Counts(NamedTuple):
    """Elements: of all blocks of the image, of their products, of all blocks of the result; transformed kernels."""

    image: int
    products: int
    result: int
    kernel: int


@lru_cache
def _count(settings: Settings, p: ConvProblem) -> _Counts:
    """Of a problem in phases."""
    m = settings.along(p)
    cut = blocks(p, m)
    every = p.batch * p.groups * cut.positions
    filters = every * p.filters
    kernel = cut.taps * p.groups * p.filters * p.channels
    return _Counts(every * cut.taps * p.channels, filters * cut.taps, filters * math.prod(m), kernel)


def _cost(settings: Settings, problem: ConvProblem) -> Cost:
    p = phases.unit(problem)
    m, of, design = settings.along(p), _count(settings, p), design_of(settings, p)
    cut = blocks(p, m)
    split = 0 if phases.straight(problem) else p.image_elements
    padded = cut.image_elements if cut.size != p.size else 0
    whole = of.result + (of.result if of.result != p.output_elements or split else 0)
    transforms = transform_macs(design.BT, of.image) + transform_macs(design.AT, of.products)
    traffic = 2 * split + 2 * padded + 5 * of.image + 3 * of.products + of.kernel + 3 * of.result + whole
    inner = (p.channels, p.filters) if p.channels_last else (cut.output_size[-1], m[-1])
    return Cost(
        matmul_macs=of.products * p.channels + transforms,
        traffic=traffic * p.itemsize,
        runs=(of.image + split) // inner[0] + of.result // inner[1] + (split + padded) // p.size[-1],
        calls=20 + 2 * (p.batch // problem.batch) * (p.channels // problem.channels),
        workspace=_held(settings, problem) * p.itemsize,
        error=roundoff(p.dtype) * summed(p.channels, 2.6) * design.amplification,
        spreads=bool(roundoff(p.dtype)),
        grain=m[0] * (problem.dilation[0] // math.gcd(problem.dilation[0], problem.stride[0])),
    )


def _held(settings: Settings, problem: ConvProblem) -> int:
    """The most elements held at once beside the result: what each step of :func:`_run` needs and what it makes."""
    p = phases.unit(problem)
    of, design, cut = _count(settings, p), design_of(settings, p), blocks(p, settings.along(p))
    split = phases.image_held(problem)
    padded = cut.image_elements  # if not here, then in the last tile of an image
    steps = (
        split.most,
        split.left + padded,
        padded + 2 * of.image,
        of.image + of.products,
        of.products + most_held(design.AT, of.products),
        3 * of.result if design.divisor != 1 else 0,
        2 * of.result + (0 if phases.straight(problem) else problem.output_elements),
    )
    return max(steps) - problem.output_elements


# -- its ways ------------------------------------------------------------------------------------------------


_WAYS = {"numba": FUSED, "one axis": ONE_AXIS, "CUDA": CUDA}


def _into_new(settings: Settings, x: Array, kernel: Any, problem: ConvProblem, xp: ModuleType) -> Array:
    """The same by a way that is compiled, into a new array."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _WAYS[settings.way].write(settings, x, kernel, problem, xp, y)
    return y


@lru_cache
def _winograd(settings: Settings) -> Algorithm:
    m = settings.m
    detail = f"m={m}" if isinstance(m, int) else f"m={'x'.join(map(str, m))}"
    if settings.way:
        way = _WAYS[settings.way]
        return Algorithm(
            name="winograd",
            run=partial(_into_new, settings),
            cost=partial(way.cost, settings),
            reject=partial(way.reject, settings),
            prepare=partial(way.prepare, settings),
            prepare_cost=partial(way.prepare_cost, settings),
            detail=f"{detail}, fused",
            write=partial(way.write, settings),
            shares=way.shares and partial(way.shares, settings),
            absorbs=lambda problem: True,
            casts=way.casts,
        )
    return Algorithm(
        name="winograd",
        run=partial(_run, settings),
        cost=partial(_cost, settings),
        reject=partial(refusal, settings),
        prepare=partial(_prepare, settings),
        prepare_cost=partial(kernel_cost, settings),
        detail=detail,
    )


def Winograd(  # noqa: N802 - it makes an algorithm, and reads as one
    m: int | Sequence[int] = 4,
    points: Iterable[int | float | str | Fraction] | None = None,
    fused: bool = False,
) -> Algorithm:
    """Winograd's method with blocks of ``m`` outputs, for ``algorithm=``.

    Parameters
    ----------
    m
        Outputs of a block along each axis that has taps: one number for all axes, or one for each.
    points
        Where polynomials are evaluated beside infinity; the first ``m + r - 2`` are used along an axis of ``r`` taps.
        By default :func:`winograd_transforms`'s own, or 0, 1, -1, 2, -2, ... for integers.
    fused
        Whether blocks are gathered and transformed in one pass, rather than by one array operation after the other:
        by what numba compiles, of images in NumPy's arrays, together with their products; by CUDA, of CuPy's. Where
        ``m`` is one along every axis but the last but one, as in ``(4, 1)``, numba transforms along that axis alone,
        which suits few channels and takes strides.

    Raises
    ------
    ValueError, TypeError
        For an ``m`` that is neither a positive integer nor a sequence of such, and for points that are equal or no
        rational numbers.
    """
    outputs = integers(m, "m", 1) if is_sequence(m) else integer(m, "m", 1)
    exact = None
    if points is not None:
        exact = exact_points(points)
        winograd_transforms(1, len(exact) + 1, exact)  # raises for points that are equal
    settings = Settings(outputs, exact)
    if not fused:
        return _winograd(settings)
    compiled = _winograd(settings._replace(way="numba"))
    return replace(compiled, variants=lambda problem, target: (_fused(settings, problem, target),))


def _fused(settings: Settings, problem: ConvProblem, target: Target) -> Algorithm:
    """Fused winograd, in the language that there is for the target's arrays; numba's wants channels innermost."""
    if target.no_cuda is None:
        return _winograd(settings._replace(way="CUDA"))
    one_axis = not isinstance(settings.m, int) and along_one(settings.m)
    compiled = _winograd(settings._replace(way="one axis" if one_axis else "numba"))
    return compiled if problem.channels_last else interleaved(compiled)


def _sizes(taps: int) -> list[int]:
    """Outputs of blocks along an axis: two to eight, with no more than ten points, but two in any case."""
    return [m for m in range(2, 9) if m == 2 or m + taps - 1 <= _MOST_POINTS]


def _variants(problem: ConvProblem, target: Target) -> tuple[Algorithm, ...]:
    """Blocks of several sizes along all axes, and along one where numba may compile them."""
    kernel, before = phases.unit(problem).kernel, (1,) * (problem.ndim - 2)
    every = [Settings(m, None) for m in _sizes(max(kernel))]
    one = [Settings((*before, m, 1), None) for m in _sizes(kernel[-2])] if problem.ndim > 1 and target.no_cuda else []
    return (*map(_winograd, every), *(_fused(settings, problem, target) for settings in (*every, *one)))


WINOGRAD = replace(_winograd(Settings(4, None)), variants=_variants)
