"""Both gradients of a convolution, which are convolutions themselves, planned like any other.

With respect to the image it is the transposed convolution of the result's gradient; for that with respect to the
kernel see :mod:`polyconv.kernel_gradient`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from . import dtypes, layouts
from .arguments import Call, Demands, TransposedCall
from .arrays import Array, describe, in_chunks, plain
from .convolution import Planner, per_block
from .kernel_gradient import kernel_sums
from .padding import pad, unpad
from .spread import Axis
from .transposed import transpose

__all__ = ["bias_grad", "input_grad", "transposed", "weight_grad"]


def _full(a: Array, layout: str) -> tuple[Array, str]:
    """An image with a batch and with channels, if need be of length one, and its layout."""
    if "N" not in layout:
        a, layout = a[None], "N" + layout
    if "C" not in layout:
        a, layout = a[..., None], layout + "C"
    return a, layout


def _as_it_was(y: Array, layout: str) -> Array:
    """Without the axes that :func:`_full` added."""
    if "C" not in layout:
        y = y[..., 0]
    return y if "N" in layout else y[0]


def _kernel(w: Array, layout: str, outer: str, space: str, groups: int, flip: bool, xp: Any) -> Array:
    """A kernel as ``(G, *outer, *space)``; ``outer`` are two letters, of which the first has the groups."""
    spelled = [letter for letter in outer + space if letter in layout]
    w = xp.permute_dims(w, tuple(layout.index(letter) for letter in spelled))
    if len(spelled) == len(space):
        w = w[None, None]
    if flip:
        w = xp.flip(w, axis=tuple(range(2, w.ndim)))
    return xp.reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))


def transposed(
    x: Array,
    w: Array,
    bias: Array | None,
    axes: tuple[Axis, ...],
    call: Call | TransposedCall,
    outer: str,
    demands: Demands,
    dtype: Any,
) -> Array:
    """The transposed convolution of ``x`` with ``w``; ``call`` says how both are laid out.

    ``outer`` are the letters of the kernel's axes that meet the channels of ``x`` and of the result.
    """
    x, layout = _full(x, call.layout)
    if bias is not None and "C" not in call.layout:
        bias = bias[None]
    xp, groups = describe(w, "w").xp, call.groups
    spelled = {"layout": call.kernel_layout, "outer": outer, "space": layouts.spatial_letters(layout)}
    kernel = per_block(w, partial(_kernel, **spelled, groups=groups, flip=call.flip_kernel, xp=xp))

    return _as_it_was(transpose(x, kernel, bias, axes, groups, layout, Planner(demands, dtype)), call.layout)


@contextmanager
def _by_what_was_asked_for(demands: Demands, whose: str) -> Iterator[None]:
    """An algorithm that takes the convolution need not take its gradients: then the error says which it was about."""
    try:
        yield
    except ValueError as error:
        if demands.algorithm is None:
            raise
        raise ValueError(f"the {whose}'s gradient is a convolution of its own, and there {error}") from error


def input_grad(dy: Array, w: Array, call: Call, demands: Demands, dtype: Any) -> Array:
    """The gradient with respect to the image of ``call``, of ``dy`` with respect to its result."""
    p = call.problem
    inside = p.padding_mode == "constant"
    axes = tuple(
        Axis(outputs, taps, stride, dilation, low if inside else 0, size if inside else padded)
        for outputs, taps, stride, dilation, (low, _), size, padded in zip(
            p.output_size, p.kernel, p.stride, p.dilation, p.padding, p.size, p.padded_size, strict=True
        )
    )
    with _by_what_was_asked_for(demands, "image"):
        dx = transposed(dy, w, None, axes, call, "OI", demands, dtype)
    if inside:
        return dx
    xp = describe(dx, "dx").xp
    return per_block(dx, partial(unpad, widths=call.pad_widths, mode=p.padding_mode, xp=xp), along=call.spatial_axes)


def weight_grad(x: Array, dy: Array, call: Call, demands: Demands, dtype: Any) -> Array:
    """The gradient with respect to the kernel of ``call``, of ``dy`` with respect to its result."""
    chosen = dtypes.choose(x.dtype, dy.dtype, dtype, call.x.xp, call.x.device)
    if in_chunks(x) or in_chunks(dy):
        from . import chunked

        return chunked.weight_grad(chunked.like(x, dy), chunked.like(dy, x), call, demands, chosen.result)
    p, xp = replace(call.problem, dtype=dtypes.name(chosen.total)), describe(x, "x").xp
    if p.padding_mode != "constant":
        x, p = pad(x, call.pad_widths, p.padding_mode, xp), p.padded
    x, layout = _full(plain(x), call.layout)
    dy, _ = _full(plain(dy), call.layout)
    with _by_what_was_asked_for(demands, "kernel"):
        dw = kernel_sums(x, dy, layout, p, demands, dtype)
    spelled = "OI" + layouts.spatial_letters(layout)
    if call.flip_kernel:
        dw = xp.flip(dw, axis=tuple(range(2, dw.ndim)))
    if "C" not in call.layout:
        dw, spelled = dw[0, 0, ...], spelled[2:]
    return xp.permute_dims(dw, tuple(map(spelled.index, call.kernel_layout)))


def bias_grad(dy: Array, layout: str, dtype: Any) -> Array:
    """The gradient with respect to a bias: the sum over all but channels, of ``dtype`` or, if that is None, as ``dy``.

    Halves are summed in float32, as everywhere, and integers as the library sums them. One axis is summed after
    another, or block after block: of many terms few are added to a large sum, and so less is lost to rounding.
    """
    spec = describe(dy, "dy")
    chosen = dtypes.choose(dy.dtype, dy.dtype, dtype, spec.xp, spec.device)
    axes = [axis for axis, letter in enumerate(layout) if letter != "C"]
    if in_chunks(dy):
        return dy.sum(axis=tuple(axes), dtype=chosen.total).astype(chosen.result)
    for axis in reversed(axes):
        dy = spec.xp.sum(dy, axis=axis, dtype=chosen.total)
    return spec.xp.astype(dy, chosen.result)
