"""What every way of carrying out Winograd's method has in common: its blocks, their transforms, their errors.

A block and a kernel give a design: matrices in exact fractions (:mod:`polyconv.algorithms.cook_toom`), rounded once to
the dtype of the sums, or scaled to integers and so exact. How blocks are gathered, multiplied and put together is each
way's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, constant, device, ratios
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from . import phases
from .base import Cost
from .cook_toom import Matrix, Transforms, amplification, integer_points, winograd_transforms

if TYPE_CHECKING:
    from ..compiled import codelets
    from ..target import Target

__all__ = [
    "Settings", "Way", "axis_matrices", "codelets_of", "design_of", "designed", "kernel_at_points", "kernel_cost",
    "matrices_of", "most_held", "refusal", "transform_macs", "transformed", "uncompiled", "with_error", "wrapped",
]  # fmt: skip

_FAR_TOO_MANY = 24  # the error grows threefold with every tap, and the fractions take their time
_TOGETHER = 128  # axes are transformed in one matrix product as long as their points are no more than this


class Settings(NamedTuple):
    """What one Winograd algorithm is: outputs per block, one number for all axes or one for each, and points.

    ``way`` is the name of that in which it is carried out, if it is not by array operations alone.
    """

    m: int | tuple[int, ...]
    points: tuple[Fraction, ...] | None
    way: str = ""

    def along(self, p: ConvProblem) -> tuple[int, ...]:
        """Outputs of a block along each axis of a problem in phases; an axis without taps is left as it is."""
        each = (self.m,) * p.ndim if isinstance(self.m, int) else self.m
        return tuple(m if r > 1 else 1 for m, r in zip(each, p.kernel, strict=True))


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


def wrapped(number: int, dtype: str) -> int:
    """The representative of ``number`` modulo the range of an integer dtype."""
    values = 1 << int(dtype.lstrip("uint"))
    least = 0 if dtype.startswith("u") else -values // 2
    return (number - least) % values + least


class Group(NamedTuple):
    """Matrices of neighbouring axes, which one matrix product transforms together: their Kronecker product."""

    factors: tuple[Matrix, ...]

    @property
    def rows(self) -> int:
        """Rows of the product."""
        return math.prod(len(factor) for factor in self.factors)

    @property
    def columns(self) -> int:
        """Columns of the product."""
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
            whole = tuple(tuple(wrapped(a, dtype) for a in row) for row in whole)
        return ratios(whole, denominator, dtype)


class Design(NamedTuple):
    """All that follows from a block, a kernel and whether numbers are integers.

    Each transform is few matrices, for neighbouring axes together. Results are too large by ``divisor``, and rounding
    errors by ``amplification``.
    """

    AT: tuple[Group, ...]
    G: tuple[Group, ...]
    BT: tuple[Group, ...]
    divisor: int
    amplification: float


def design_of(settings: Settings, p: ConvProblem) -> Design:
    """The design for a problem in phases."""
    return designed(settings.along(p), p.kernel, settings.points, not roundoff(p.dtype))


@lru_cache
def designed(m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, exact: bool) -> Design:
    """The design of blocks of ``m`` outputs, for integers if it is to be ``exact``."""
    divisor, axes = 1, []
    for outputs, taps in zip(m, kernel, strict=True):
        number = outputs + taps - 2
        given = points[:number] if points is not None else integer_points(number) if exact else None
        t = winograd_transforms(outputs, taps, given)
        if exact:
            t, scale = _scaled(t)
            divisor *= scale
        axes.append(t)

    def together(matrices: Iterable[Matrix]) -> tuple[Group, ...]:
        groups: list[Group] = []
        for matrix in matrices:
            wider = Group((*groups[-1].factors, matrix)) if groups else None
            if wider and max(wider.rows, wider.columns) <= _TOGETHER:
                groups[-1] = wider
            else:
                groups.append(Group((matrix,)))
        return tuple(groups)

    enlarged = 1.0 if exact else math.prod(map(amplification, axes))
    at, g, bt = (together(getattr(t, which) for t in axes) for which in ("AT", "G", "BT"))
    return Design(at, g, bt, divisor, enlarged)


@lru_cache
def matrices_of(
    m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, dtype: str
) -> tuple[tuple[Array, ...], ...]:
    """The transforms of a design as NumPy arrays: ``AT``, ``G`` and ``BT``. Planning does without."""
    found = designed(m, kernel, points, not roundoff(dtype))
    return tuple(tuple(group.multiplied(dtype) for group in groups) for groups in (found.AT, found.G, found.BT))


def axis_matrices(m: int, r: int, points: tuple[Fraction, ...] | None, dtype: str) -> tuple[Array, Array, Array]:
    """The transforms of one axis as NumPy arrays: ``AT``, ``G`` and ``BT`` of ``F(m, r)``."""
    (at,), (g,), (bt,) = matrices_of((m,), (r,), points, dtype)
    return at, g, bt


@lru_cache
def codelets_of(
    m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, dtype: str
) -> tuple[codelets.Matrices, ...]:
    """The transforms of each axis as what numba compiles knows them: all ``AT``, all ``G`` and all ``BT``."""
    from ..compiled import codelets

    each = (axis_matrices(step, r, points, dtype) for step, r in zip(m, kernel, strict=True))
    return tuple(map(codelets.Matrices, zip(*each, strict=True)))


def _kron(a: tuple[tuple[int, ...], ...], b: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The Kronecker product, which acts on two axes as ``a`` on the first and ``b`` on the second."""
    return tuple(tuple(i * j for i, j in product(row, other)) for row, other in product(a, b))


def transformed(matrices: Iterable[Array], data: Array, xp: ModuleType) -> Array:
    """Transform leading axes: data of ``(*points, rest)`` elements -> ``(product of new points, rest)``."""
    done = 1
    for matrix in matrices:
        data = xp.matmul(matrix, xp.reshape(data, (done, matrix.shape[1], -1)))
        done *= matrix.shape[0]
    return xp.reshape(data, (done, -1))


def transform_macs(groups: tuple[Group, ...], elements: int) -> int:
    """Multiply-adds that transform ``elements`` along all axes."""
    macs = 0
    for group in groups:
        macs += elements * group.rows
        elements = elements * group.rows // group.columns
    return macs


def most_held(groups: tuple[Group, ...], elements: int) -> int:
    """The most elements that transforming ``elements`` along all axes holds at once, beside those."""
    most = before = 0
    for group in groups:
        elements = elements * group.rows // group.columns
        most, before = max(most, before + elements), elements
    return most


# -- kernels -------------------------------------------------------------------------------------------------


def kernel_at_points(settings: Settings, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The kernel at every point, ``(points, G, C, K)``, or ``(points, G, K, C)`` where space is innermost."""
    p = phases.unit(problem)
    _, g, _ = matrices_of(settings.along(p), p.kernel, settings.points, p.dtype)
    w = phases.split_kernel(w, problem, xp)
    taps = range(3, 3 + p.ndim)
    order, shape = ((0, 2, 1), (p.channels, p.filters)) if p.channels_last else ((0, 1, 2), (p.filters, p.channels))
    kernel = transformed([constant(a, xp, device(w)) for a in g], xp.permute_dims(w, (*taps, *order)), xp)
    return xp.reshape(kernel, (-1, p.groups, *shape))


def kernel_cost(settings: Settings, problem: ConvProblem) -> Cost:
    """What :func:`kernel_at_points` costs, and what it and the transforms of an image hold."""
    p = phases.unit(problem)
    m, found = settings.along(p), design_of(settings, p)
    points = math.prod(step + r - 1 for step, r in zip(m, p.kernel, strict=True))
    kernel = points * p.groups * p.filters * p.channels
    matrices = sum(group.rows * group.columns for groups in (found.AT, found.BT) for group in groups)
    split = phases.kernel_held(problem)
    most = max(split.most, split.left + p.kernel_elements + most_held(found.G, p.kernel_elements))
    return Cost(
        matmul_macs=transform_macs(found.G, p.kernel_elements),
        traffic=(2 * problem.kernel_elements + 3 * p.kernel_elements + 2 * kernel) * p.itemsize,
        runs=p.kernel_elements // 8,
        calls=20,
        workspace=(matrices + most) * p.itemsize,
        kept=(kernel + matrices) * p.itemsize,
    )


# -- ways ----------------------------------------------------------------------------------------------------


def refusal(settings: Settings, problem: ConvProblem, target: object) -> str | None:
    """Why no way can take a problem with these settings, or None."""
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
    divisor = design_of(settings, p).divisor
    lost = divisor & -divisor  # the power of two in it
    largest = problem.largest_product * problem.channels * problem.taps * lost
    if largest >= 2 ** (8 * p.itemsize - (not p.dtype.startswith("u"))):
        larger = f", {lost} times as large on the way," if lost > 1 else ""
        return f"the sums that integers of these dtypes may have{larger} pass the range of {p.dtype}"
    return None


def with_error(cost: Cost, settings: Settings, problem: ConvProblem) -> Cost:
    """The cost of fused winograd and what its blocks entail: a rounding error, and how many rows are made together."""
    p = replace(problem, dilation=(1,) * problem.ndim)
    error = roundoff(p.dtype) * summed(p.channels, 2.6) * design_of(settings, p).amplification
    return replace(cost, error=error, spreads=True, grain=settings.along(problem)[0] * problem.dilation[0])


def uncompiled(problem: ConvProblem, target: Target) -> str | None:
    """Why a way that numba compiles cannot run there, or None."""
    if target.no_numba:
        return f"fused winograd {target.no_numba}"
    if problem.dtype not in ("float32", "float64"):
        return f"fused winograd is compiled for single and double precision, not for {problem.dtype}"
    return None


class Way(NamedTuple):
    """A way to carry out the method, compiled: fields of :class:`Algorithm`, each of which takes settings first."""

    reject: Callable[..., str | None]
    prepare: Callable[..., Any]
    prepare_cost: Callable[..., Cost]
    cost: Callable[..., Cost]
    write: Callable[..., None]
    shares: Callable[..., int] | None
    casts: Callable[[str], bool] | None
