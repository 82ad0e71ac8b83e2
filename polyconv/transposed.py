"""Transposed convolution: every pixel of the image puts a copy of the kernel, times its value, into the result.

Strides spread the copies apart. Outputs whose places leave the same remainder when divided by the stride meet the
same taps: they are a phase, and a phase is an ordinary convolution, without stride, of the image with some of the taps.
So all phases are filters of one convolution, whose results are interleaved (Shi et al., "Real-time single image and
video super-resolution using an efficient sub-pixel convolutional neural network", CVPR 2016): nothing is multiplied by
the zeros that the textbook puts between pixels, and any algorithm will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from .arrays import Array, contiguous, describe, in_chunks
from .convolution import per_block
from .layouts import spatial_letters
from .padding import pad
from .spread import Axis

__all__ = ["transpose"]


def _phases(w: Array, axes: Sequence[Axis]) -> Array:
    """The kernel ``(G, I, O, *kernel)`` as one of all phases, ``(G * phases * O, I, *each)``, turned around."""
    xp = describe(w, "w").xp
    n, kept = len(axes), w.shape[:3]
    for i, axis in enumerate(axes):
        if axis.spelled_out:
            before, after = w.shape[: 3 + i], w.shape[4 + i :]
            wide = xp.reshape(w, (*before, axis.taps, 1, *after))
            margins = [(0, 0)] * (4 + i) + [(0, axis.dilation - 1)] + [(0, 0)] * len(after)
            w = xp.reshape(pad(wide, margins, "constant", xp), (*before, axis.taps * axis.dilation, *after))
            w = w[(*(slice(None),) * (3 + i), slice((axis.taps - 1) * axis.dilation + 1), ...)]
    margins = [(0, axis.each * axis.stride - length) for axis, length in zip(axes, w.shape[3:], strict=True)]
    w = pad(w, [(0, 0)] * 3 + margins, "constant", xp)
    w = xp.reshape(w, (*kept, *(length for axis in axes for length in (axis.each, axis.stride))))
    w = xp.flip(w, axis=tuple(range(3, 3 + 2 * n, 2)))
    w = xp.permute_dims(w, (0, *range(4, 4 + 2 * n, 2), 2, 1, *range(3, 3 + 2 * n, 2)))
    return xp.reshape(w, (-1, kept[1], *(axis.each for axis in axes)))


def _interleaved(y: Array, layout: str, groups: int, strides: tuple[int, ...]) -> Array:
    """Phases, which stand among the channels, to their places between one another."""
    xp, letters = describe(y, "y").xp, spatial_letters(layout)
    # Each part of an axis: the letter of the axis in the result that it is part of, whether it is a phase, its length.
    parts: list[tuple[str, bool, int]] = []
    for letter, length in zip(layout, y.shape, strict=True):
        if letter == "C":
            phases = [(other, True, stride) for other, stride in zip(letters, strides, strict=True)]
            parts += [("C", False, groups), *phases, ("C", False, length // groups // math.prod(strides))]
        else:
            parts.append((letter, False, length))
    of = {letter: [i for i, part in enumerate(parts) if part[0] == letter] for letter in layout}
    order = [i for letter in layout for i in sorted(of[letter], key=lambda i: parts[i][1])]
    y = xp.permute_dims(xp.reshape(y, tuple(part[2] for part in parts)), tuple(order))
    return xp.reshape(y, tuple(math.prod(parts[i][2] for i in of[letter]) for letter in layout))


def transpose(
    x: Array,
    w: Array,
    bias: Array | None,
    axes: Sequence[Axis],
    groups: int,
    layout: str,
    convolve: Callable[..., Array],
) -> Array:
    """The transposed convolution of ``x``, in a ``layout`` with batch and channels, with ``w`` ``(G, I, O, *kernel)``.

    ``convolve(x, w, bias, **keywords)`` does the work, of ``x`` and a kernel whose output channels come first.
    """
    letters = spatial_letters(layout)
    strides = tuple(axis.stride for axis in axes)
    every = math.prod(strides)
    inside = tuple(axes[letters.index(letter)].reads[0] if letter in letters else slice(None) for letter in layout)
    if every > 1 and bias is not None:
        bias = per_block(bias, partial(_for_each_phase, groups=groups, every=every))
    y = convolve(
        x[inside],
        per_block(w, partial(_phases, axes=tuple(axes))),
        bias,
        padding=tuple(axis.reads[1] for axis in axes),
        dilation=tuple(axis.apart for axis in axes),
        groups=groups,
        layout=layout,
        kernel_layout="OI" + letters,
    )
    if every == 1:
        return y
    y = per_block(y, partial(_interleaved, layout=layout, groups=groups, strides=strides), along=(layout.index("C"),))
    skipped = {letter: axis.low - axis.first * axis.stride for letter, axis in zip(letters, axes, strict=True)}
    wanted = {
        letter: slice(skipped[letter], skipped[letter] + axis.outputs)
        for letter, axis in zip(letters, axes, strict=True)
    }
    y = y[tuple(wanted.get(letter, slice(None)) for letter in layout)]
    return y if in_chunks(y) else contiguous(y)


def _for_each_phase(bias: Array, groups: int, every: int) -> Array:
    """A bias, ``(G * O,)``, for the filters of all phases, ``(G * phases * O,)``."""
    xp = describe(bias, "bias").xp
    return xp.reshape(xp.concat([xp.reshape(bias, (groups, 1, -1))] * every, axis=1), (-1,))
