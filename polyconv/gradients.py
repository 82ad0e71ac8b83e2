"""Both gradients of a convolution, which are convolutions themselves, planned like any other.

With respect to the image it is the transposed convolution of the result's gradient; with respect to the kernel,
the image convolved with the result's gradient, channels standing for the batch, and stride and dilation having changed
places.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from . import dtypes, layouts
from .arguments import Call, Demands, TransposedCall
from .arrays import Array, describe, in_chunks
from .convolution import convolve, per_block
from .padding import pad, unpad
from .problem import ConvProblem
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

    def convolution(x: Array, w: Array, bias: Array | None, **keywords: Any) -> Array:
        return convolve(x, w, bias, demands, dtype=dtype, **keywords)

    return _as_it_was(transpose(x, kernel, bias, axes, groups, layout, convolution), call.layout)


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
    dx = transposed(dy, w, None, axes, call, "OI", demands, dtype)
    if inside:
        return dx
    xp = describe(dx, "dx").xp
    return per_block(dx, partial(unpad, widths=call.pad_widths, mode=p.padding_mode, xp=xp), along=call.spatial_axes)


def weight_grad(x: Array, dy: Array, call: Call, demands: Demands, dtype: Any) -> Array:
    """The gradient with respect to the kernel of ``call``, of ``dy`` with respect to its result."""
    if in_chunks(x) or in_chunks(dy):
        from . import chunked

        chosen = dtypes.choose(x.dtype, dy.dtype, dtype, call.x.xp, call.x.device)
        return chunked.weight_grad(chunked.like(x, dy), chunked.like(dy, x), call, demands, chosen.result)
    p, xp = call.problem, describe(x, "x").xp
    if p.padding_mode != "constant":
        x, p = pad(x, call.pad_widths, p.padding_mode, xp), p.padded
    x, layout = _full(x, call.layout)
    dy, _ = _full(dy, call.layout)
    letters = layouts.spatial_letters(layout)
    inside, margins = zip(*(_seen(p, axis) for axis in range(p.ndim)), strict=True)
    cuts = dict(zip(letters, inside, strict=True))
    x = x[tuple(cuts.get(letter, slice(None)) for letter in layout)]
    swapped = layout.translate(str.maketrans("NC", "CN"))
    if p.groups > 1:  # the groups of channels go with the batch
        x = xp.permute_dims(x, tuple(layout.index(letter) for letter in "NC" + letters))
        x = xp.reshape(x, (p.batch, p.groups, p.channels, *x.shape[2:]))
        x = xp.reshape(xp.permute_dims(x, (2, 1, 0, *range(3, x.ndim))), (p.channels, p.groups * p.batch, *x.shape[3:]))
        swapped = "NC" + letters
    dw = convolve(
        x, dy, None, demands, stride=p.dilation, dilation=p.stride, padding=margins, groups=p.groups, layout=swapped,
        kernel_layout=layout.translate(str.maketrans("NC", "IO")), dtype=dtype,
    )  # fmt: skip
    # Of the image's channels for a batch, and filters for channels.
    if call.flip_kernel:
        dw = xp.flip(dw, axis=tuple(swapped.index(letter) for letter in letters))
    if "C" not in call.layout:
        dw = dw[tuple(0 if letter in "NC" else slice(None) for letter in swapped)]
        swapped = "".join(letter for letter in swapped if letter not in "NC")
    spelled = swapped.translate(str.maketrans("NC", "IO"))
    return xp.permute_dims(dw, tuple(spelled.index(letter) for letter in call.kernel_layout))


def _seen(p: ConvProblem, axis: int) -> tuple[slice, tuple[int, int]]:
    """The pixels along an axis that any output sees, and the zeros around them: neither more, nor fewer."""
    return p.window(axis, 0, p.output_size[axis])


def bias_grad(dy: Array, layout: str) -> Array:
    """The gradient with respect to a bias: the sum over all but channels, in the dtype of ``dy`` if that is a float."""
    xp = describe(dy, "dy").xp
    axes = tuple(axis for axis, letter in enumerate(layout) if letter != "C")
    return dy.sum(axis=axes) if in_chunks(dy) else xp.sum(dy, axis=axes)
