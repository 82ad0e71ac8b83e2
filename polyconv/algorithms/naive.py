"""Convolution by loops: the definition itself, and its first improvement.

``naive`` visits every index of the definition in nested loops, as every introduction to convolution does
(Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285). ``patch`` keeps
only the loop over output positions and lets array operations do batch, channels and kernel at once.
"""

from __future__ import annotations

from itertools import product
from types import ModuleType

from ..arrays import Array, innermost
from ..problem import ConvProblem, reach
from ..rounding import direct
from .base import Algorithm, Cost, never

__all__ = ["NAIVE", "PATCH"]

_ARRAY_OBJECT = 240  # bytes that one small array takes beside its elements, with its shape and its place in a list


def naive(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """One multiplication at a time. Slow by three orders of magnitude or more, and easy to check by eye."""
    p = problem
    results = []
    for n, g, k, *o in product(*map(range, p.result_shape)):
        corner = [position * stride for position, stride in zip(o, p.stride, strict=True)]
        terms = []
        for c, *t in product(*map(range, (p.channels, *p.kernel))):
            i = [start + tap * dilation for start, tap, dilation in zip(corner, t, p.dilation, strict=True)]
            terms.append(x[(n, g, c, *i)] * w[(g, k, c, *t)])
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        results.append(total)
    return xp.reshape(xp.stack(results), p.result_shape)


def _naive_cost(p: ConvProblem) -> Cost:
    # A term takes two look-ups, a product and a sum, together as long as one operation on an array. Stacking makes
    # every result, a number in a list until then, two array objects.
    alive = 2 * _ARRAY_OBJECT * p.output_elements + 40 * p.channels * p.taps
    return Cost(other_flops=2 * p.macs, traffic=0, runs=0, calls=p.macs, workspace=alive, error=direct(p))


def patch(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """One matrix product per output position: its patch of the image by all filters.

    Both factors are gathered along the grain of memory, and the product takes either as it lies or transposed.
    """
    p = problem
    length = p.channels * p.taps
    filters = _matrix(w, (p.groups, p.filters, length), innermost(w) == 1, xp)
    inner = innermost(x) == 0
    spans = tuple(map(reach, p.kernel, p.dilation))
    columns = []
    for o in product(*map(range, p.output_size)):
        window = (
            slice(position * stride, position * stride + span, dilation)
            for position, stride, span, dilation in zip(o, p.stride, spans, p.dilation, strict=True)
        )
        patch = xp.permute_dims(x[(slice(None), slice(None), slice(None), *window)], (1, 0, *range(2, 3 + p.ndim)))
        patches = _matrix(patch, (p.groups, p.batch, length), inner, xp)
        columns.append(xp.matmul(patches, xp.permute_dims(filters, (0, 2, 1))))  # (G, N, K)
    y = xp.reshape(xp.stack(columns, axis=0), (*p.output_size, p.groups, p.batch, p.filters))
    last = p.ndim
    return xp.permute_dims(y, (last + 1, last, last + 2, *range(last)))


def _matrix(a: Array, shape: tuple[int, int, int], second_is_innermost: bool, xp: ModuleType) -> Array:
    """``a`` of such a ``shape``, copied, if need be, in the order in which it lies."""
    if not second_is_innermost:
        return xp.reshape(a, shape)
    turned = xp.permute_dims(a, (0, *range(2, a.ndim), 1))
    return xp.permute_dims(xp.reshape(turned, (shape[0], shape[2], shape[1])), (0, 2, 1))


def _patch_cost(p: ConvProblem) -> Cost:
    patches = p.batch * p.groups * p.channels * p.taps
    read = (patches * p.positions * 2 + p.kernel_elements * p.positions + 2 * p.output_elements) * p.itemsize
    # Every column is an array object of its own until all are stacked, and is seen through another one then.
    alive = (p.kernel_elements + patches + 2 * p.output_elements) * p.itemsize + 2 * _ARRAY_OBJECT * p.positions
    runs = patches * p.positions // p.kernel[-1]
    return Cost(matmul_macs=p.macs, traffic=read, runs=runs, calls=6 * p.positions, workspace=alive, error=direct(p))


NAIVE = Algorithm("naive", naive, _naive_cost, never)
PATCH = Algorithm("patch", patch, _patch_cost, never)
