"""Convolution over an array of all windows: three ways to contract it with the kernel.

``strided_sum`` and ``tensordot`` see the windows as a strided view, in which nothing is copied until the
contraction asks for it (NumPy's ``sliding_window_view``). ``einsum`` gathers them by index, the way
"fancy indexing" does it. All three keep windows and kernel as arrays of many axes; ``im2col`` flattens them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from ..arrays import Array, device, windows
from ..arrays import einsum as contract_letters
from ..problem import ConvProblem
from .base import Algorithm, Cost, never

__all__ = ["EINSUM", "STRIDED_SUM", "TENSORDOT"]


def strided_sum(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """For each filter: every window times the filter, elementwise, and the sum over each window."""
    p = problem
    view = windows(x, p, xp)  # (N, G, C, *out, *kernel)
    summed = (2, *range(3 + p.ndim, 3 + 2 * p.ndim))
    over_space = (p.groups, p.channels, *(1,) * p.ndim, *p.kernel)
    results = [
        xp.sum(view * xp.reshape(w[:, k, ...], over_space), axis=summed, dtype=x.dtype) for k in range(p.filters)
    ]
    return xp.stack(results, axis=2)


def _strided_sum_cost(p: ConvProblem) -> Cost:
    products = p.batch * p.groups * p.channels * p.positions * p.taps
    traffic = (3 * products * p.filters + 2 * p.output_elements) * p.itemsize
    workspace = (products + 2 * p.output_elements) * p.itemsize
    return Cost(0, traffic, calls=4 * p.filters + 4, workspace=workspace)


def _by_group(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, one: Callable[[Array, Array], Array]) -> Array:
    """Contract each group by itself: ``one`` takes ``(N, C, ...)`` and ``(K, C, ...)`` to ``(N, K, ...)``."""
    return xp.stack([one(x[:, g, ...], w[g, ...]) for g in range(problem.groups)], axis=1)


def tensordot(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The tensor product of windows and kernel, contracted over channels and every kernel axis."""
    n = problem.ndim
    axes = ([1, *range(2 + n, 2 + 2 * n)], [1, *range(2, 2 + n)])

    def one(view: Array, filters: Array) -> Array:
        y = xp.tensordot(view, filters, axes=axes)  # (N, *out, K)
        return xp.permute_dims(y, (0, 1 + n, *range(1, 1 + n)))

    return _by_group(windows(x, problem, xp), w, problem, xp, one)


def einsum(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Gather every window by index, then ``einsum("ncpt,kct->nkp")``: output position p, tap t.

    The index of a pixel is counted over the flattened image. An output position contributes ``o * stride`` to
    its coordinate along each axis and a tap ``t * dilation``; a meshgrid pairs all positions with all taps.
    """
    p = problem
    where = device(x)
    positions = [xp.arange(n, device=where) * s for n, s in zip(p.output_size, p.stride, strict=True)]
    taps = [xp.arange(k, device=where) * d for k, d in zip(p.kernel, p.dilation, strict=True)]
    grid = xp.meshgrid(*positions, *taps, indexing="ij")
    index = grid[0] * 0
    for size, position, tap in zip(p.size, grid[: p.ndim], grid[p.ndim :], strict=True):
        index = index * size + position + tap
    flat = xp.reshape(x, (p.batch, p.groups, p.channels, -1))
    gathered = xp.take(flat, xp.reshape(index, (-1,)), axis=3)
    gathered = xp.reshape(gathered, (p.batch, p.groups, p.channels, p.positions, p.taps))
    filters = xp.reshape(w, (p.groups, p.filters, p.channels, p.taps))
    y = _by_group(gathered, filters, p, xp, lambda a, b: contract_letters("ncpt,kct->nkp", a, b, xp))
    return xp.reshape(y, (p.batch, p.groups, p.filters, *p.output_size))


def _contraction_cost(p: ConvProblem, *, gathered: bool) -> Cost:
    values = p.batch * p.groups * p.channels * p.positions * p.taps
    copies = 2 if gathered else 1  # the gathered windows, and the matrix that the contraction makes of them
    index = p.positions * p.taps * 8 if gathered else 0
    traffic = ((2 * copies + 1) * values + 4 * p.output_elements) * p.itemsize + 8 * index
    held = copies * values // (1 if gathered else p.groups)
    workspace = (held + 2 * p.output_elements + p.kernel_elements) * p.itemsize + (3 + 2 * p.ndim) * index
    return Cost(p.macs, traffic, calls=12 + 8 * p.groups + 10 * gathered, workspace=workspace)


def _tensordot_cost(p: ConvProblem) -> Cost:
    return _contraction_cost(p, gathered=False)


def _einsum_cost(p: ConvProblem) -> Cost:
    return _contraction_cost(p, gathered=True)


STRIDED_SUM = Algorithm("strided_sum", strided_sum, _strided_sum_cost, never)
TENSORDOT = Algorithm("tensordot", tensordot, _tensordot_cost, never)
EINSUM = Algorithm("einsum", einsum, _einsum_cost, never)
