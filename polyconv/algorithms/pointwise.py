"""The 1x1 convolution: a matrix product over channels, and nothing else.

Lin, Chen & Yan, "Network in network" (arXiv:1312.4400). :func:`contract` is that product in both memory
orders; ``taps`` and ``im2col`` are built upon it, since each turns a larger kernel into pointwise ones.
"""

from __future__ import annotations

from types import ModuleType

from ..arrays import Array, joined, multiply
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost

__all__ = ["POINTWISE", "contract", "contract_copies", "contract_into", "stretch"]


def contract(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Sum over everything that stands for channels: ``(N, G, *R, *out)`` by ``(G, K, *R)`` -> ``(N, G, K, *out)``.

    Where space is innermost in memory, the image is the right factor: one column per output position, and the
    product comes out with space innermost. Where channels are, it is the left one: one row per position. Either
    way an image that is contiguous in its own order is not copied, and neither is the result.
    """
    p = problem
    if not p.channels_last:
        return xp.reshape(xp.matmul(*_factors(x, w, p, xp)), p.result_shape)
    y = xp.reshape(xp.matmul(*_factors(x, w, p, xp)), (p.groups, p.batch, *p.output_size, p.filters))
    return xp.permute_dims(y, (1, 0, 2 + p.ndim, *range(2, 2 + p.ndim)))


def contract_into(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, y: Array) -> None:
    """The same, into a ``y`` that is there: where groups lie side by side, each product goes to its place at once."""
    p = problem
    if not p.channels_last:
        product = joined(y, 3, 3 + p.ndim)  # (N, G, K, positions)
    else:
        rows = xp.permute_dims(y, (1, 0, *range(3, 3 + p.ndim), 2))
        product = joined(rows, 1, 2 + p.ndim)  # (G, N * positions, K)
    if product is None:
        y[...] = contract(x, w, p, xp)
    else:
        multiply(*_factors(x, w, p, xp), product, xp)


def _factors(x: Array, w: Array, p: ConvProblem, xp: ModuleType) -> tuple[Array, Array]:
    """What :func:`contract` multiplies: kernel and image, or image and kernel where channels are innermost."""
    if not p.channels_last:
        return xp.reshape(w, (p.groups, p.filters, -1)), xp.reshape(x, (p.batch, p.groups, -1, p.positions))
    space = tuple(range(len(x.shape) - p.ndim, len(x.shape)))
    reduced = tuple(range(2, space[0]))
    rows = xp.reshape(xp.permute_dims(x, (1, 0, *space, *reduced)), (p.groups, p.batch * p.positions, -1))
    return rows, xp.permute_dims(xp.reshape(w, (p.groups, p.filters, -1)), (0, 2, 1))


def contract_copies(p: ConvProblem) -> int:
    """Elements of the result that are written once more: grouped and channels-last, it comes out group by group."""
    return p.output_elements if p.channels_last and p.groups > 1 else 0


def stretch(p: ConvProblem) -> int:
    """Elements that lie together, or evenly spaced, in the part of the image that one tap meets."""
    if not p.channels_last:
        return p.output_size[-1]
    return p.channels * (p.output_size[-1] if p.stride[-1] == 1 and p.groups == 1 else 1)


def pointwise(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """One matrix product over the channels of every ``stride``-th element."""
    return contract(_strided(x, problem), xp.reshape(w, w.shape[:3]), problem, xp)


def _write(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, y: Array) -> None:
    contract_into(_strided(x, problem), xp.reshape(w, w.shape[:3]), problem, xp, y)


def _strided(x: Array, p: ConvProblem) -> Array:
    if all(step == 1 for step in p.stride):
        return x
    return x[(slice(None), slice(None), slice(None), *(slice(None, None, step) for step in p.stride))]


def _cost(p: ConvProblem) -> Cost:
    image = p.batch * p.groups * p.channels * p.positions
    # The image is copied only where the caller's strides leave no matrix; planning does not see strides.
    workspace = (max(image, contract_copies(p)) + p.kernel_elements) * p.itemsize
    traffic = (image + p.output_elements + 2 * contract_copies(p)) * p.itemsize
    strided = any(step != 1 for step in p.stride)
    runs = (image if strided else 0) // stretch(p) + contract_copies(p) // p.filters
    return Cost(matmul_macs=p.macs, traffic=traffic, runs=runs, calls=6, workspace=workspace, error=direct(p))


def _reject(p: ConvProblem, target: object) -> str | None:
    if p.taps == 1:
        return None
    return f"pointwise takes kernels of one tap, and this one is {'x'.join(map(str, p.kernel))}"


POINTWISE = Algorithm("pointwise", pointwise, _cost, _reject, write=_write, stores=True)
