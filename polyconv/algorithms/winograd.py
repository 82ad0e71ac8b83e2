"""Winograd's minimal filtering: blocks of the image and the kernel, transformed, multiplied point by point.

Lavin & Gray, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308), for any number of axes and any
block and kernel of no more than 24 points along each. Both transforms are matrix products, and so is the sum over
channels, one for each point: array operations alone. ``F(4, 3)`` along two axes takes 36 products for 16 outputs where
the definition takes 144; what is paid for it is a larger rounding error, and that a NaN spoils its whole block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, constant, device, new, ratios
from ..cuda import kernels
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from . import fused, phases, transforms
from .base import Algorithm, Cost
from .cook_toom import Matrix, Transforms, amplification, exact_points, integer_points, winograd_transforms
from .interleaved import interleaved
from .overlap import assemble, blocks, gather

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["WINOGRAD", "Winograd"]

_MOST_POINTS = 10  # beyond, not even float64 is left with an error worth having
_FAR_TOO_MANY = 24  # the error grows threefold with every tap, and the fractions take their time

_TOGETHER = 128  # axes are transformed in one matrix product as long as their points are no more than this


class _Settings(NamedTuple):
    """What one Winograd algorithm is: outputs per block, one number for all axes or one for each, and points.

    Where transforms are ``fused`` with what comes before and after them, it says in which language.
    """

    m: int | tuple[int, ...]
    points: tuple[Fraction, ...] | None
    fused: str = ""

    def along(self, p: ConvProblem) -> tuple[int, ...]:
        """Outputs of a block along each axis of a problem in phases; an axis without taps is left as it is."""
        each = (self.m,) * p.ndim if isinstance(self.m, int) else self.m
        return tuple(m if r > 1 else 1 for m, r in zip(each, p.kernel, strict=True))


# -- exact integers ------------------------------------------------------------------------------------------


def _scaled(t: Transforms) -> tuple[Transforms, int]:
    """The transforms times what makes them integers, and the number that all their outputs are then too large by.

    Rows of ``G`` and ``BT`` are cleared of their denominators each for itself, and ``AT`` makes up for it.
    """
    g_scale, b_scale = ([math.lcm(*(a.denominator for a in row)) for row in matrix] for matrix in (t.G, t.BT))
    columns = [g * b for g, b in zip(g_scale, b_scale, strict=True)]
    unscaled = [[a / column for a, column in zip(row, columns, strict=True)] for row in t.AT]
    whole = math.lcm(*(a.denominator for row in unscaled for a in row))
    at = tuple(tuple(a * whole for a in row) for row in unscaled)
    g, bt = (
        tuple(tuple(a * scale for a in row) for row, scale in zip(matrix, scales, strict=True))
        for matrix, scales in ((t.G, g_scale), (t.BT, b_scale))
    )
    return Transforms(at, g, bt), whole


def _divide(y: Array, divisor: int, p: ConvProblem) -> Array:
    """``y / divisor``, exactly, where ``y`` is a multiple of it modulo the range of the integers.

    Sums that have run over are right modulo the range, and stay so when multiplied by the inverse of the odd part of
    the divisor. Only its power of two must be divided out, so only that much room is lost.
    """
    power = divisor & -divisor
    inverse = pow(divisor // power, -1, 2 ** (8 * p.itemsize))
    return y * _wrapped(inverse, p.dtype) // power


def _wrapped(number: int, dtype: str) -> int:
    """The representative of ``number`` modulo the range of an integer dtype."""
    values = 1 << int(dtype.lstrip("uint"))
    least = 0 if dtype.startswith("u") else -values // 2
    return (number - least) % values + least


# -- matrices that transform several axes at once ------------------------------------------------------------


class _Group(NamedTuple):
    """Matrices of neighbouring axes, which one matrix product transforms together: their Kronecker product."""

    factors: tuple[Matrix, ...]

    @property
    def rows(self) -> int:
        return math.prod(len(factor) for factor in self.factors)

    @property
    def columns(self) -> int:
        return math.prod(len(factor[0]) for factor in self.factors)

    def multiplied(self, dtype: str) -> Array:
        """The product, each entry rounded once; a NumPy array."""
        whole: tuple[tuple[int, ...], ...] = ((1,),)
        denominator = 1
        for factor in self.factors:
            common = math.lcm(*(a.denominator for row in factor for a in row))
            numerators = tuple(tuple(int(a * common) for a in row) for row in factor)
            whole, denominator = _kron(whole, numerators), denominator * common
        if not roundoff(dtype):
            whole = tuple(tuple(_wrapped(a, dtype) for a in row) for row in whole)
        return ratios(whole, denominator, dtype)


class _Design(NamedTuple):
    """All that follows from a block, a kernel and whether numbers are integers.

    Each transform is few matrices, for neighbouring axes together. Results are too large by ``divisor``, and rounding
    errors by ``amplification``.
    """

    AT: tuple[_Group, ...]
    G: tuple[_Group, ...]
    BT: tuple[_Group, ...]
    divisor: int
    amplification: float


def _design(settings: _Settings, p: ConvProblem) -> _Design:
    """The design for a problem in phases."""
    return _designed(settings.along(p), p.kernel, settings.points, not roundoff(p.dtype))


@lru_cache
def _designed(m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, exact: bool) -> _Design:
    divisor, axes = 1, []
    for outputs, taps in zip(m, kernel, strict=True):
        number = outputs + taps - 2
        given = points[:number] if points is not None else integer_points(number) if exact else None
        t = winograd_transforms(outputs, taps, given)
        if exact:
            t, scale = _scaled(t)
            divisor *= scale
        axes.append(t)

    def together(matrices: Iterable[Matrix]) -> tuple[_Group, ...]:
        groups: list[_Group] = []
        for matrix in matrices:
            wider = _Group((*groups[-1].factors, matrix)) if groups else None
            if wider and max(wider.rows, wider.columns) <= _TOGETHER:
                groups[-1] = wider
            else:
                groups.append(_Group((matrix,)))
        return tuple(groups)

    enlarged = 1.0 if exact else math.prod(map(amplification, axes))
    at, g, bt = (together(getattr(t, which) for t in axes) for which in ("AT", "G", "BT"))
    return _Design(at, g, bt, divisor, enlarged)


@lru_cache
def _matrices(
    m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, dtype: str
) -> tuple[tuple[Array, ...], ...]:
    """The transforms of a design as NumPy arrays: ``AT``, ``G`` and ``BT``. Planning does without."""
    design = _designed(m, kernel, points, not roundoff(dtype))
    return tuple(tuple(group.multiplied(dtype) for group in groups) for groups in (design.AT, design.G, design.BT))


def _kron(a: tuple[tuple[int, ...], ...], b: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The Kronecker product, which acts on two axes as ``a`` on the first and ``b`` on the second."""
    return tuple(tuple(i * j for i, j in product(row, other)) for row, other in product(a, b))


def _apply(matrices: Iterable[Array], data: Array, xp: ModuleType) -> Array:
    """Transform leading axes: data of ``(*points, rest)`` elements -> ``(product of new points, rest)``."""
    done = 1
    for matrix in matrices:
        data = xp.matmul(matrix, xp.reshape(data, (done, matrix.shape[1], -1)))
        done *= matrix.shape[0]
    return xp.reshape(data, (done, -1))


# -- the algorithm -------------------------------------------------------------------------------------------


def _prepare(settings: _Settings, w: Array, problem: ConvProblem, xp: ModuleType) -> tuple[Any, ...]:
    """The kernel at every point, ``(points, G, C, K)`` or ``(points, G, K, C)``, and the transforms of the image."""
    p = phases.unit(problem)
    transforms = _matrices(settings.along(p), p.kernel, settings.points, p.dtype)
    at, g, bt = ([constant(a, xp, device(w)) for a in matrices] for matrices in transforms)
    w = phases.split_kernel(w, problem, xp)
    taps = range(3, 3 + p.ndim)
    order, shape = ((0, 2, 1), (p.channels, p.filters)) if p.channels_last else ((0, 1, 2), (p.filters, p.channels))
    kernel = _apply(g, xp.permute_dims(w, (*taps, *order)), xp)
    return xp.reshape(kernel, (-1, p.groups, *shape)), at, bt


def _run(settings: _Settings, x: Array, kernel: tuple[Any, ...], problem: ConvProblem, xp: ModuleType) -> Array:
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
        return _apply(bt, xp.permute_dims(view, order), xp)

    if p.channels_last:
        products = xp.matmul(xp.reshape(image(), (-1, p.groups, every, p.channels)), filters)
        shape = (*m, p.groups, p.batch, *number, p.filters)
        back = (n + 1, n, 2 * n + 2, *range(n + 2, 2 * n + 2), *range(n))
    else:
        products = xp.matmul(filters, xp.reshape(image(), (-1, p.groups, p.channels, every)))
        shape = (*m, p.groups, p.filters, p.batch, *number)
        back = (n + 2, n, n + 1, *range(n + 3, 2 * n + 3), *range(n))
    y = _apply(at, products, xp)
    del products
    if (divisor := _design(settings, p).divisor) != 1:
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
def _count(settings: _Settings, p: ConvProblem) -> _Counts:
    """Of a problem in phases."""
    m = settings.along(p)
    cut = blocks(p, m)
    every = p.batch * p.groups * cut.positions
    filters = every * p.filters
    kernel = cut.taps * p.groups * p.filters * p.channels
    return _Counts(every * cut.taps * p.channels, filters * cut.taps, filters * math.prod(m), kernel)


def _transform_macs(groups: tuple[_Group, ...], elements: int) -> int:
    """Multiply-adds that transform ``elements`` along all axes."""
    macs = 0
    for group in groups:
        macs += elements * group.rows
        elements = elements * group.rows // group.columns
    return macs


def _cost(settings: _Settings, problem: ConvProblem) -> Cost:
    p = phases.unit(problem)
    m, of, design = settings.along(p), _count(settings, p), _design(settings, p)
    cut = blocks(p, m)
    split = 0 if phases.straight(problem) else p.image_elements
    padded = cut.image_elements if cut.size != p.size else 0
    whole = of.result + (of.result if of.result != p.output_elements or split else 0)
    transforms = _transform_macs(design.BT, of.image) + _transform_macs(design.AT, of.products)
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


def _transformed(groups: tuple[_Group, ...], elements: int) -> int:
    """The most elements that transforming ``elements`` along all axes holds at once, beside those."""
    most = before = 0
    for group in groups:
        elements = elements * group.rows // group.columns
        most, before = max(most, before + elements), elements
    return most


def _held(settings: _Settings, problem: ConvProblem) -> int:
    """The most elements held at once beside the result: what each step of :func:`_run` needs and what it makes."""
    p = phases.unit(problem)
    of, design, cut = _count(settings, p), _design(settings, p), blocks(p, settings.along(p))
    split = phases.image_held(problem)
    padded = cut.image_elements  # if not here, then in the last tile of an image
    steps = (
        split.most,
        split.left + padded,
        padded + 2 * of.image,
        of.image + of.products,
        of.products + _transformed(design.AT, of.products),
        3 * of.result if design.divisor != 1 else 0,
        2 * of.result + (0 if phases.straight(problem) else problem.output_elements),
    )
    return max(steps) - problem.output_elements


def _prepare_cost(settings: _Settings, problem: ConvProblem) -> Cost:
    p = phases.unit(problem)
    kernel, design = _count(settings, p).kernel, _design(settings, p)
    matrices = sum(group.rows * group.columns for groups in (design.AT, design.BT) for group in groups)
    split = phases.kernel_held(problem)
    most = max(split.most, split.left + p.kernel_elements + _transformed(design.G, p.kernel_elements))
    return Cost(
        matmul_macs=_transform_macs(design.G, p.kernel_elements),
        traffic=(2 * problem.kernel_elements + 3 * p.kernel_elements + 2 * kernel) * p.itemsize,
        runs=p.kernel_elements // 8,
        calls=20,
        workspace=(matrices + most) * p.itemsize,
        kept=(kernel + matrices) * p.itemsize,
    )


def _reject(settings: _Settings, problem: ConvProblem, target: object) -> str | None:
    p = phases.unit(problem)
    if p.taps == 1:
        few = "no more taps than the stride" if problem.taps > 1 else "one tap"
        return f"winograd has nothing to save where the kernel has {few} along every axis"
    if not isinstance(settings.m, int) and len(settings.m) != p.ndim:
        return f"winograd was given m={settings.m}, {len(settings.m)} numbers, for {p.ndim} spatial axes"
    most = max(m + r - 1 for m, r in zip(settings.along(p), p.kernel, strict=True))
    if most > _FAR_TOO_MANY:
        return f"winograd takes at most {_FAR_TOO_MANY} points along an axis, and this kernel needs {most}"
    if settings.points is not None:
        wanted = max(m + r - 2 for m, r in zip(settings.along(p), p.kernel, strict=True))
        if len(settings.points) < wanted:
            return f"winograd needs {wanted} points for this kernel, and was given {len(settings.points)}"
    if roundoff(p.dtype):
        return None
    divisor = _design(settings, p).divisor
    lost = divisor & -divisor  # the power of two in it
    largest = problem.largest_product * problem.channels * problem.taps * lost
    if largest >= 2 ** (8 * p.itemsize - (not p.dtype.startswith("u"))):
        larger = f", {lost} times as large on the way," if lost > 1 else ""
        return f"the sums that integers of these dtypes may have{larger} pass the range of {p.dtype}"
    return None


# -- the same, fused -----------------------------------------------------------------------------------------


def _fused_reject(settings: _Settings, problem: ConvProblem, target: Target) -> str | None:
    if target.uncompiled:
        return f"fused winograd {target.uncompiled}"
    if problem.dtype not in ("float32", "float64"):
        return f"fused winograd is compiled for single and double precision, not for {problem.dtype}"
    if any(step != 1 for step in problem.stride):
        return "fused winograd takes no strides"
    return _reject(settings, problem, target)


def _fused_prepare(settings: _Settings, w: Array, problem: ConvProblem, xp: ModuleType) -> fused.Panels:
    m = settings.along(problem)
    each = [_matrices((step,), (r,), settings.points, problem.dtype) for step, r in zip(m, problem.kernel, strict=True)]
    matrices = tuple([transforms[which][0] for transforms in each] for which in range(3))
    return fused.prepare(w, matrices, problem, m, xp)


def _fused_write(
    settings: _Settings,
    x: Array,
    kernel: fused.Panels,
    problem: ConvProblem,
    xp: ModuleType,
    y: Array,
    workers: int = 1,
) -> None:
    fused.write(x, kernel, problem, settings.along(problem), xp, y, workers)


def _fused_shares(settings: _Settings, problem: ConvProblem, workers: int) -> int:
    return fused.units(problem, settings.along(problem), workers)


def _fused_run(settings: _Settings, x: Array, kernel: Any, problem: ConvProblem, xp: ModuleType) -> Array:
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _KINDS[settings.fused].write(settings, x, kernel, problem, xp, y)
    return y


def _fused_cost(settings: _Settings, problem: ConvProblem) -> Cost:
    return _with_error(fused.cost(problem, settings.along(problem)), settings, problem)


def _with_error(cost: Cost, settings: _Settings, problem: ConvProblem) -> Cost:
    """The cost of fused winograd and what its blocks entail: a rounding error, and how many rows are made together."""
    p = replace(problem, dilation=(1,) * problem.ndim)
    error = roundoff(p.dtype) * summed(p.channels, 2.6) * _design(settings, p).amplification
    return replace(cost, error=error, spreads=True, grain=settings.along(problem)[0] * problem.dilation[0])


def _fused_prepare_cost(settings: _Settings, problem: ConvProblem) -> Cost:
    p = replace(problem, dilation=(1,) * problem.ndim)
    kept, item = fused.kept(problem, settings.along(problem)), problem.itemsize
    return Cost(
        other_flops=2 * _transform_macs(_design(settings, p).G, p.kernel_elements),
        traffic=(4 * p.kernel_elements + 2 * kept) * item,
        runs=p.kernel_elements // 4 + kept // 64,
        calls=30,
        workspace=(2 * p.kernel_elements + kept) * item,
        kept=kept * item,
    )


# -- the same, with CUDA's transforms --------------------------------------------------------------------------


def _cuda_reject(settings: _Settings, problem: ConvProblem, target: Target) -> str | None:
    if reason := kernels.reject(problem, target, "fused winograd"):
        return reason
    if problem.dtype not in ("float32", "float64"):
        return f"fused winograd is written for single and double precision, not for {problem.dtype}"
    if any(step != 1 for step in problem.stride):
        return "fused winograd takes no strides"
    if reason := _reject(settings, problem, target):
        return reason
    if (held := transforms.points(problem, settings.along(problem))) > transforms.MOST_POINTS:
        return f"fused winograd takes at most {transforms.MOST_POINTS} points of a block, and here there are {held}"
    if problem.macs and transforms.threads(problem, settings.along(problem)) >= kernels.LONGEST:
        return f"fused winograd counts up to {kernels.LONGEST} blocks of channels"
    return None


def _cuda_prepare(settings: _Settings, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    return _prepare(settings, w, problem, xp)[0]


@lru_cache
def _numbers(
    m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, dtype: str
) -> transforms.Matrices:
    """The transforms of each axis, rounded to a dtype."""
    each = [_matrices((step,), (r,), points, dtype) for step, r in zip(m, kernel, strict=True)]
    at, bt = (
        tuple(tuple(tuple(map(float, row)) for row in matrices[which][0]) for matrices in each) for which in (0, 2)
    )
    return transforms.Matrices(at, bt)


def _cuda_write(settings: _Settings, x: Array, kernel: Array, problem: ConvProblem, xp: ModuleType, y: Array) -> None:
    m = settings.along(problem)
    matrices = _numbers(m, problem.kernel, settings.points, problem.dtype)
    transforms.write(x, kernel, matrices, problem, m, xp, y)


def _cuda_cost(settings: _Settings, problem: ConvProblem) -> Cost:
    return _with_error(transforms.cost(problem, settings.along(problem)), settings, problem)


class _Kind(NamedTuple):
    """What fused winograd is in one language: the fields of its record, each of settings first."""

    reject: Callable[..., str | None]
    prepare: Callable[..., Any]
    prepare_cost: Callable[..., Cost]
    cost: Callable[..., Cost]
    write: Callable[..., None]
    shares: Callable[..., int] | None
    casts: Callable[[str], bool] | None


_KINDS: dict[str, _Kind] = {
    "numba": _Kind(_fused_reject, _fused_prepare, _fused_prepare_cost, _fused_cost, _fused_write, _fused_shares, None),
    "CUDA": _Kind(_cuda_reject, _cuda_prepare, _prepare_cost, _cuda_cost, _cuda_write, None, kernels.casts),
}


@lru_cache
def _winograd(settings: _Settings) -> Algorithm:
    m = settings.m
    detail = f"m={m}" if isinstance(m, int) else f"m={'x'.join(map(str, m))}"
    if settings.fused:
        kind = _KINDS[settings.fused]
        return Algorithm(
            "winograd",
            run=partial(_fused_run, settings),
            cost=partial(kind.cost, settings),
            reject=partial(kind.reject, settings),
            prepare=partial(kind.prepare, settings),
            prepare_cost=partial(kind.prepare_cost, settings),
            detail=f"{detail}, fused",
            write=partial(kind.write, settings),
            shares=kind.shares and partial(kind.shares, settings),
            absorbs=lambda problem: True,
            casts=kind.casts,
        )
    return Algorithm(
        "winograd",
        run=partial(_run, settings),
        cost=partial(_cost, settings),
        reject=partial(_reject, settings),
        prepare=partial(_prepare, settings),
        prepare_cost=partial(_prepare_cost, settings),
        detail=detail,
    )


def Winograd(  # noqa: N802 - it makes an algorithm, and reads as one
    m: int | tuple[int, ...] = 4,
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
        by what numba compiles, of images in NumPy's arrays, together with their products; by CUDA, of CuPy's.

    Raises
    ------
    ValueError, TypeError
        For an ``m`` that is no positive integer, and for points that are equal or no rational numbers.
    """
    for each in m if isinstance(m, tuple | list) else (m,):
        winograd_transforms(each, 1)  # raises for what is no number of outputs
    exact = None
    if points is not None:
        exact = exact_points(points)
        winograd_transforms(1, len(exact) + 1, exact)  # raises for points that are equal
    settings = _Settings(m if isinstance(m, int) else tuple(m), exact)
    if not fused:
        return _winograd(settings)
    compiled = _winograd(settings._replace(fused="numba"))
    return replace(compiled, variants=lambda problem, target: (_fused(settings, problem, target),))


def _fused(settings: _Settings, problem: ConvProblem, target: Target) -> Algorithm:
    """Fused winograd, in the language that there is for the target's arrays; numba's wants channels innermost."""
    if not target.cuda:
        return _winograd(settings._replace(fused="CUDA"))
    compiled = _winograd(settings._replace(fused="numba"))
    return compiled if problem.channels_last else interleaved(compiled)


def _variants(problem: ConvProblem, target: Target) -> tuple[Algorithm, ...]:
    """Blocks of two to eight outputs along every axis, none of more than ten points; or of two outputs at least."""
    longest = max(phases.unit(problem).kernel)
    sizes = [m for m in range(2, 9) if m == 2 or m + longest - 1 <= _MOST_POINTS]
    every = [_Settings(m, None) for m in sizes]
    return (*map(_winograd, every), *(_fused(settings, problem, target) for settings in every))


WINOGRAD = replace(_winograd(_Settings(4, None)), variants=_variants)
