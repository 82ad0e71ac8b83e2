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
from ..rounding import direct
from .base import Algorithm, Cost, never

__all__ = ["EINSUM", "STRIDED_SUM", "TENSORDOT"]


def strided_sum(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """For each filter: every window times the filter, elementwise, and the sum over each window."""
    p = problem
    view = windows(x, p, xp)  # (N, G, C, *kernel, *out)
    summed = tuple(range(2, 3 + p.ndim))
    over_space = (p.groups, p.channels, *p.kernel, *(1,) * p.ndim)
    results = [
        xp.sum(view * xp.reshape(w[:, k, ...], over_space), axis=summed, dtype=x.dtype) for k in range(p.filters)
    ]
    return xp.stack(results, axis=2)


def _strided_sum_cost(p: ConvProblem) -> Cost:
    products = p.batch * p.groups * p.channels * p.positions * p.taps
    traffic = (3 * products * p.filters + 2 * p.output_elements) * p.itemsize
    workspace = (products + 2 * p.output_elements) * p.itemsize
    inner = p.channels if p.channels_last and p.channels > 1 else p.output_size[-1]
    runs = 2 * products * p.filters // inner
    return Cost(
        other_flops=2 * p.macs,
        traffic=traffic,
        runs=runs,
        calls=4 * p.filters + 4,
        workspace=workspace,
        error=direct(p),
    )


def _by_group(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, one: Callable[[Array, Array], Array]) -> Array:
    """Contract each group by itself: ``one`` takes ``(N, C, ...)`` and ``(K, C, ...)`` to ``(N, K, ...)``."""
    return xp.stack([one(x[:, g, ...], w[g, ...]) for g in range(problem.groups)], axis=1)


def tensordot(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The tensor product of windows and kernel, contracted over channels and every kernel axis."""
    n = problem.ndim
    axes = [*range(1, 2 + n)]  # of the windows of one group (N, C, *kernel, *out) as of its filters (K, C, *kernel)

    def one(view: Array, filters: Array) -> Array:
        y = xp.tensordot(view, filters, axes=(axes, axes))  # (N, *out, K)
        return xp.permute_dims(y, (0, 1 + n, *range(1, 1 + n)))

    return _by_group(windows(x, problem, xp), w, problem, xp, one)


def einsum(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Gather every window by index, then ``einsum("ncpt,kct->nkp")``: output position p, tap t."""
    p = problem
    flat = xp.reshape(x, (p.batch, p.groups, p.channels, -1))
    gathered = xp.take(flat, _window_index(p, xp, device(x)), axis=3)
    gathered = xp.reshape(gathered, (p.batch, p.groups, p.channels, p.positions, p.taps))
    filters = xp.reshape(w, (p.groups, p.filters, p.channels, p.taps))
    y = _by_group(gathered, filters, p, xp, lambda a, b: contract_letters("ncpt,kct->nkp", a, b, xp))
    return xp.reshape(y, p.result_shape)


def _window_index(p: ConvProblem, xp: ModuleType, where: object) -> Array:
    """For every output position and every tap, the pixel that they meet in, counted over the flattened image.

    An output position contributes ``o * stride`` to the pixel's coordinate along each axis and a tap
    ``t * dilation``; a meshgrid pairs all positions with all taps.
    """
    positions = [xp.arange(n, device=where) * s for n, s in zip(p.output_size, p.stride, strict=True)]
    taps = [xp.arange(k, device=where) * d for k, d in zip(p.kernel, p.dilation, strict=True)]
    grid = xp.meshgrid(*positions, *taps, indexing="ij")
    index = grid[0] + grid[p.ndim]
    for size, position, tap in zip(p.size[1:], grid[1 : p.ndim], grid[p.ndim + 1 :], strict=True):
        index = index * size + position + tap
    return xp.reshape(index, (-1,))


def _tensordot_cost(p: ConvProblem) -> Cost:
    values = p.batch * p.groups * p.channels * p.positions * p.taps
    traffic = (3 * values + 4 * p.output_elements) * p.itemsize
    workspace = (values // p.groups + 2 * p.output_elements + p.kernel_elements) * p.itemsize
    return Cost(
        matmul_macs=p.macs,
        traffic=traffic,
        runs=values // p.kernel[-1],
        calls=12 + 8 * p.groups,
        workspace=workspace,
        error=direct(p),
    )


def _einsum_cost(p: ConvProblem) -> Cost:
    values = p.batch * p.groups * p.channels * p.positions * p.taps
    index = p.positions * p.taps * 8
    traffic = (5 * values + 4 * p.output_elements) * p.itemsize + 8 * index
    # First the meshgrid and what is computed from it; then the windows, gathered, and the copies that einsum
    # makes of them on its way to a matrix: two, in NumPy's.
    contracted = (values + 2 * values // p.groups + 2 * p.output_elements + p.kernel_elements) * p.itemsize
    workspace = max((2 * p.ndim + 3) * index, index + contracted)
    return Cost(
        matmul_macs=p.macs,
        traffic=traffic,
        runs=values // 4,
        calls=22 + 8 * p.groups,
        workspace=workspace,
        error=direct(p),
    )


STRIDED_SUM = Algorithm("strided_sum", strided_sum, _strided_sum_cost, never)
TENSORDOT = Algorithm("tensordot", tensordot, _tensordot_cost, never, pairs=True)
EINSUM = Algorithm("einsum", einsum, _einsum_cost, never, pairs=True)
