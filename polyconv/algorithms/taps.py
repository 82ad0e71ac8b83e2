"""Convolution as a sum of shifted pointwise convolutions, one per kernel tap.

Also known as shift-and-matmul or kn2row (Vasudevan, Anderson & Gregg, "Parallel multi channel convolution using
general matrix multiplication", arXiv:1704.04428). No window is ever stored: the workspace is one tap's image
and one tap's result. ``depthwise`` is the same sum where a filter sees one channel (Howard et al., "MobileNets",
arXiv:1704.04861), so that each product is elementwise; where the library can sum products without storing them, it
passes over the image but once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from string import ascii_lowercase, ascii_uppercase
from types import ModuleType
from typing import TYPE_CHECKING

from ..arrays import Array, contiguous, device, new, sum_of_products, windows
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost, never
from .edges import few, parts
from .pointwise import contract, contract_copies, stretch

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["DEPTHWISE", "TAPS"]


def shifts(x: Array, problem: ConvProblem) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every tap with the part of the image that it meets: ``(N, G, C, *size)`` -> ``(N, G, C, *output_size)`` views."""
    p = problem
    for tap in product(*map(range, p.kernel)):
        starts = [t * d for t, d in zip(tap, p.dilation, strict=True)]
        space = (
            slice(start, start + (n - 1) * step + 1, step)
            for start, n, step in zip(starts, p.output_size, p.stride, strict=True)
        )
        yield tap, x[(slice(None), slice(None), slice(None), *space)]


def taps(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """One matrix product over channels per kernel tap, summed."""
    return sum_of(contract(shifted, w[(..., *tap)], problem, xp) for tap, shifted in shifts(x, problem))


def depthwise(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """One elementwise product per kernel tap, summed; each channel meets only its own filters."""
    trailing = (1,) * problem.ndim
    weights = xp.reshape(w, (*w.shape[:2], *w.shape[3:]))  # (G, K, *kernel), the single channel left out
    return sum_of(
        shifted * xp.reshape(weights[(..., *tap)], (*w.shape[:2], *trailing)) for tap, shifted in shifts(x, problem)
    )


def _in_one_pass(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Every window times its channel's filters, summed where the result will be."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _write_in_one_pass(x, w, problem, xp, y)
    return y


def _write_in_one_pass(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, y: Array) -> None:
    n = problem.ndim
    taps, out = ascii_uppercase[:n], ascii_lowercase[:n]
    for part in parts(problem):
        place = y[(..., *part.result)]
        if part.problem is None:
            place[...] = 0
            continue
        seen = windows(x[(..., *part.image)], part.problem, xp)[:, :, 0, ...]
        view = xp.permute_dims(seen, (0, *range(2, 2 + 2 * n), 1))
        kernel = xp.permute_dims(w[:, :, 0, ...][(..., *part.kernel)], (*range(2, 2 + n), 0, 1))
        sum_of_products(f"x{taps}{out}y,{taps}yz->x{out}yz", view, kernel, xp.permute_dims(place, problem.memory_order))


def _taps_first(w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The kernel, ``(G, K, 1, *kernel)``, with all channels of a tap side by side in memory, as a pixel has them."""
    n = problem.ndim
    taps = contiguous(xp.permute_dims(w, (*range(3, 3 + n), 2, 0, 1)))
    return xp.permute_dims(taps, (n + 1, n + 2, n, *range(n)))


def sum_of(terms: Iterator[Array]) -> Array:
    """The sum of new arrays, in place where they can be written to; one term at a time is alive beside the sum."""
    total = next(terms)
    for term in terms:
        total += term
        del term  # or it would stay alive while the next one is made
    return total


def _cost(p: ConvProblem) -> Cost:
    shifted = p.batch * p.groups * p.channels * p.positions
    step = shifted * 2 + 3 * p.output_elements + 2 * contract_copies(p)
    workspace = shifted + p.output_elements + p.groups * p.filters * p.channels
    runs = (shifted // stretch(p) + contract_copies(p) // p.filters) * p.taps
    return Cost(
        matmul_macs=p.macs,
        traffic=step * p.taps * p.itemsize,
        runs=runs,
        calls=8 * p.taps,
        workspace=workspace * p.itemsize,
        error=direct(p),
    )


def _depthwise_cost(p: ConvProblem) -> Cost:
    step = p.batch * p.groups * p.positions + 4 * p.output_elements
    workspace = 2 * p.output_elements + p.kernel_elements
    inner = p.groups if p.channels_last and p.groups > 1 else p.output_size[-1]
    runs = p.output_elements * p.taps // inner
    return Cost(
        other_flops=2 * p.macs,
        traffic=step * p.taps * p.itemsize,
        runs=runs,
        calls=5 * p.taps,
        workspace=workspace * p.itemsize,
        error=direct(p),
    )


def _one_pass_cost(p: ConvProblem) -> Cost:
    inner = p.filters if p.filters > 1 else p.groups  # what lies together in image, kernel and result
    return Cost(
        other_flops=2 * p.macs,
        traffic=(p.macs + p.output_elements) * p.itemsize,  # sums stay at hand, and so does the kernel
        runs=4 * p.macs // inner,  # more is to be done between two loops than where elements are copied
        calls=3,
        workspace=p.kernel_elements * p.itemsize,
        error=direct(p),
    )


def _taps_first_cost(p: ConvProblem) -> Cost:
    size = p.kernel_elements * p.itemsize
    return Cost(traffic=2 * size, runs=p.kernel_elements, calls=3, workspace=size, kept=size)


def _one_pass_reject(p: ConvProblem, target: Target) -> str | None:
    if not target.one_pass:
        return "depthwise takes a pass over the image for every tap in this library"
    if not p.channels_last:
        return "depthwise takes one pass over the image where channels are innermost"
    return _depthwise_reject(p, target)


def _depthwise_reject(p: ConvProblem, target: object) -> str | None:
    if p.channels == 1:
        return None
    return f"depthwise takes one input channel per group, and here each group has {p.channels}"


TAPS = Algorithm("taps", taps, _cost, never)
_BY_TAPS = Algorithm("depthwise", depthwise, _depthwise_cost, _depthwise_reject)
_ONE_PASS = Algorithm(
    "depthwise",
    _in_one_pass,
    _one_pass_cost,
    _one_pass_reject,
    prepare=_taps_first,
    prepare_cost=_taps_first_cost,
    detail="one pass",
    write=_write_in_one_pass,
    absorbs=few,
)
DEPTHWISE = replace(_BY_TAPS, variants=lambda problem, target: (_BY_TAPS, _ONE_PASS))
