"""Convolution as one matrix product over all windows, each unrolled into a column (or a row).

Chellapilla, Puri & Simard, "High performance convolutional neural networks for document processing" (2006);
the road that Caffe made famous. It reads every pixel once per kernel tap and stores the windows, in exchange
for one large matrix product, the operation that libraries do best.
"""

from __future__ import annotations

from types import ModuleType

from ..arrays import Array, windows
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost, never
from .pointwise import contract, contract_copies, contract_into

__all__ = ["IM2COL"]


def im2col(x: Array, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """A window's channels and taps become the channels of a pointwise convolution.

    They are unrolled in the order in which they lie in memory, so that the copy runs along it: channels
    innermost where the image has them so, kernel taps innermost otherwise.
    """
    return contract(*_columns(x, w, problem, xp), problem, xp)


def _write(x: Array, w: Array, problem: ConvProblem, xp: ModuleType, y: Array) -> None:
    contract_into(*_columns(x, w, problem, xp), problem, xp, y)


def _columns(x: Array, w: Array, p: ConvProblem, xp: ModuleType) -> tuple[Array, Array]:
    """Windows, a view, and the kernel, their axes in the order in which windows will be unrolled."""
    n = p.ndim
    view = windows(x, p, xp)  # (N, G, C, *kernel, *out)
    if p.channels_last:
        taps, out = range(3, 3 + n), range(3 + n, 3 + 2 * n)
        view = xp.permute_dims(view, (0, 1, *taps, 2, *out))
        w = xp.permute_dims(w, (0, 1, *taps, 2))
    return view, w


def _cost(p: ConvProblem) -> Cost:
    columns = p.batch * p.groups * p.channels * p.taps * p.positions
    traffic = (3 * columns + p.output_elements + 2 * contract_copies(p)) * p.itemsize
    workspace = (max(columns, contract_copies(p)) + p.kernel_elements) * p.itemsize
    together = p.kernel[-1] if p.groups == 1 and p.dilation[-1] == 1 else 1
    inner = p.channels * together if p.channels_last else p.output_size[-1]
    return Cost(
        matmul_macs=p.macs, traffic=traffic, runs=columns // inner, calls=8, workspace=workspace, error=direct(p)
    )


IM2COL = Algorithm("im2col", im2col, _cost, never, write=_write, stores=True)
