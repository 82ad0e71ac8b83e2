"""Winograd's method on a GPU: each transform one kernel, which gathers or scatters as well, and a product between them.

The kernels are in ``polyconv/cuda/winograd.cu``; the sum over channels at each point is a batch of the library's own
matrix products. Beside these, only points are stored: no blocks of the image, and no copy with zeros around it. Blocks
of a dilated convolution are dilated themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..arrays import Array, device
from ..cuda import kernels
from ..problem import ConvProblem
from . import phases
from .base import Cost
from .minimal import Settings, Way, axis_matrices, design_of, kernel_at_points, kernel_cost, refusal, with_error

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["CUDA"]

_MOST_POINTS = 64  # of a block: as many as a thread has registers for
_BLOCK = 128  # threads of a block
_SHARE = 0.6  # of products that are left where points a and -a have theirs in common
_PIXEL, _POINT, _OUTPUT, _THREAD = 4, 4, 7, 120  # instructions for each of them, and for what a thread begins with

Matrix = tuple[tuple[float, ...], ...]


def _points(p: ConvProblem, m: tuple[int, ...]) -> int:
    """Points of a block."""
    return math.prod(step + r - 1 for step, r in zip(m, p.kernel, strict=True))


def _phase_blocks(p: ConvProblem, m: tuple[int, ...]) -> list[int]:
    """Blocks of each phase along each axis; where phases are not equally long, some have nothing to do."""
    return [-(-o // (d * step)) for o, d, step in zip(p.output_size, p.dilation, m, strict=True)]


def _every(p: ConvProblem, m: tuple[int, ...]) -> int:
    """Blocks of all images."""
    return p.batch * math.prod(_phase_blocks(p, m)) * math.prod(p.dilation)


def _threads(p: ConvProblem, m: tuple[int, ...]) -> int:
    """Threads of the larger transform."""
    return _every(p, m) * p.groups * max(p.channels, p.filters)


@lru_cache(maxsize=64)
def _geometry(
    p: ConvProblem, m: tuple[int, ...], channels: int, steps: tuple[int, ...], length: Sequence[int], low: Sequence[int]
) -> Any:
    """The kernels' ``Geometry``, of the image or of the result."""
    every = _every(p, m)
    return kernels.by_value(
        every * p.groups * channels, p.groups, channels, *steps, *length, *p.dilation, *low, *_phase_blocks(p, m), every
    )


def _padded(matrix: Matrix, rows: int, columns: int) -> Matrix:
    """A matrix with zeros below it and beside it."""
    wide = tuple(row + (0.0,) * (columns - len(row)) for row in matrix)
    return wide + ((0.0,) * columns,) * (rows - len(wide))


@lru_cache
def _numbers(
    m: tuple[int, ...], kernel: tuple[int, ...], points: tuple[Fraction, ...] | None, dtype: str
) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
    """The transforms of products and of the image along each axis, as numbers that the dtype has."""
    each = [axis_matrices(step, r, points, dtype) for step, r in zip(m, kernel, strict=True)]
    at, bt = (tuple(tuple(tuple(map(float, row)) for row in matrices[which]) for matrices in each) for which in (0, 2))
    return at, bt


def _write(settings: Settings, x: Array, filters: Array, p: ConvProblem, xp: ModuleType, y: Array) -> None:
    """Convolve into ``y``; ``filters`` are the kernel at its points, ``(points, G, C, K)`` or ``(points, G, K, C)``."""
    m = settings.along(p)
    at, bt = _numbers(m, p.kernel, settings.points, p.dtype)
    x, x_steps = kernels.near(x)
    each, every = _points(p, m), _every(p, m)
    inputs = tuple(step + r - 1 for step, r in zip(m, p.kernel, strict=True))
    longest = max(inputs)
    constants = (
        *kernels.types(x, p, y),
        ("AXES", p.ndim),
        ("INPUTS", inputs),
        ("OUTPUTS", m),
        ("BT", tuple(_padded(matrix, longest, longest) for matrix in bt)),
        ("AT", tuple(_padded(matrix, longest, longest) for matrix in at)),
        ("CHANNELS_LAST", p.channels_last),
    )

    def run(name: str, source: Array, target: Array, geometry: Any, channels: int) -> None:
        blocks = -(-every * p.groups * channels // _BLOCK)
        kernels.kernel("winograd", name, constants, xp)((blocks,), (_BLOCK,), (source, target, geometry))

    # Points and groups are one batch of matrices.
    shape = (every, p.channels) if p.channels_last else (p.channels, every)
    image = xp.empty((each * p.groups, *shape), dtype=filters.dtype, device=device(x))
    lows = tuple(low for low, _ in p.padding)
    run("image_to_points", x, image, _geometry(p, m, p.channels, x_steps, p.size, lows), p.channels)
    filters = xp.reshape(filters, (each * p.groups, *filters.shape[2:]))
    products = xp.matmul(image, filters) if p.channels_last else xp.matmul(filters, image)
    del image
    geometry = _geometry(p, m, p.filters, kernels.steps(y), p.output_size, (0,) * p.ndim)
    run("products_to_result", products, y, geometry, p.filters)


def _cost(settings: Settings, p: ConvProblem) -> Cost:
    m = settings.along(p)
    each, every = _points(p, m), _every(p, m) * p.groups
    inputs = [step + r - 1 for step, r in zip(m, p.kernel, strict=True)]
    lines = [math.prod(m[:axis]) * math.prod(inputs[axis + 1 :]) for axis in range(p.ndim)]
    there = _SHARE * sum(each * n for n in inputs)
    back = _SHARE * sum(line * n * step for line, n, step in zip(lines, inputs, m, strict=True))
    slots = p.channels * kernels.slots(p, there, (_PIXEL + _POINT) * each + _THREAD)
    slots += p.filters * kernels.slots(p, back, _POINT * each + _OUTPUT * math.prod(m) + _THREAD)
    image, products = every * each * p.channels, every * each * p.filters
    return with_error(
        Cost(
            matmul_macs=image * p.filters,
            loop_slots=int(every * slots),
            other_flops=int(2 * every * (there * p.channels + back * p.filters)),
            # What blocks share of the image is read from a cache.
            traffic=(p.image_elements + 2 * image + 2 * products + p.output_elements) * p.itemsize,
            runs=0,
            calls=5,
            workspace=(image + products) * p.itemsize,
        ),
        settings,
        p,
    )


def _prepare(settings: Settings, w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    return kernel_at_points(settings, w, p, xp)


def _reject(settings: Settings, problem: ConvProblem, target: Target) -> str | None:
    if reason := kernels.reject(problem, target, "fused winograd"):
        return reason
    if problem.dtype not in ("float32", "float64"):
        return f"fused winograd is written for single and double precision, not for {problem.dtype}"
    if any(step != 1 for step in problem.stride):
        return "fused winograd takes no strides"
    if reason := refusal(settings, problem, target):
        return reason
    if (held := _points(problem, settings.along(problem))) > _MOST_POINTS:
        return f"fused winograd takes at most {_MOST_POINTS} points of a block, and here there are {held}"
    if problem.macs and _threads(problem, settings.along(problem)) >= kernels.LONGEST:
        return f"fused winograd counts up to {kernels.LONGEST} blocks of channels"
    return None


def _prepare_cost(settings: Settings, p: ConvProblem) -> Cost:
    # A matrix is brought from the host, which is two operations of CuPy's, and multiplies the kernel, which was turned.
    return replace(kernel_cost(settings, p), calls=3 * len(design_of(settings, phases.unit(p)).G) + 1)


CUDA = Way(_reject, _prepare, _prepare_cost, _cost, _write, None, kernels.casts)
