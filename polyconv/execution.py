"""The road that data takes, once and in one direction: from the caller's arrays to the result.

    pad -> cast -> the problem's axes -> the algorithm -> bias -> cast -> the caller's axes

Each step leaves an array alone that needs nothing done.
"""

from __future__ import annotations

from .algorithms import Algorithm
from .algorithms.base import permuted
from .arguments import Call
from .arrays import Array, contiguous, plain
from .padding import pad

__all__ = ["execute", "road_workspace"]


def execute(call: Call, algorithm: Algorithm, x: Array, w: Array, bias: Array | None) -> Array:
    """Convolve arrays that fit ``call``, with ``algorithm``; the result is contiguous in the caller's layout."""
    p, xp = call.problem, call.x.xp
    if p.macs:
        y = algorithm.run(_image(x, call), _kernel(w, call), p.padded, xp)
    else:  # sums of nothing: an empty result, or zeros
        shape = (p.batch, p.groups, p.filters, *p.output_size)
        y = xp.zeros(shape, dtype=call.dtypes.total, device=call.x.device)
    if bias is not None:
        y += xp.reshape(_cast(plain(bias), call), (p.groups, p.filters, *(1,) * p.ndim))
    if call.dtypes.result != call.dtypes.total:
        y = xp.astype(y, call.dtypes.result)
    return contiguous(xp.reshape(permuted(y, call.output_axes, xp), call.output_shape))


def _image(x: Array, call: Call) -> Array:
    """The caller's image as ``(N, G, C, *size)``, padded, in the dtype of the sums."""
    p, xp = call.problem, call.x.xp
    x = _cast(pad(plain(x), call.pad_widths, p.padding_mode, xp), call)
    return xp.reshape(permuted(x, call.image_axes, xp), (p.batch, p.groups, p.channels, *p.padded_size))


def _kernel(w: Array, call: Call) -> Array:
    """The caller's kernel as ``(G, K, C, *kernel)``, flipped where asked, in the dtype of the sums."""
    p, xp = call.problem, call.x.xp
    w = permuted(_cast(plain(w), call), call.kernel_axes, xp)
    w = xp.reshape(w, (p.groups, p.filters, p.channels, *p.kernel))
    return xp.flip(w, axis=tuple(range(3, 3 + p.ndim))) if call.flip_kernel else w


def _cast(x: Array, call: Call) -> Array:
    return x if x.dtype == call.dtypes.total else call.x.xp.astype(x, call.dtypes.total)


def road_workspace(call: Call) -> int:
    """Bytes that the road needs at most beside the algorithm: padded and cast copies, the result put in order."""
    p = call.problem
    copies = sum((any(map(any, p.padding)), bool(call.x.dtype != call.dtypes.total)))
    return p.itemsize * (copies * p.image_elements + 2 * p.kernel_elements)
