"""Windows as columns, and back: what im2col makes, for callers who want it; and images in blocks of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from .arguments import read_columns, read_tiles, read_windows
from .arrays import Array, at_home, contiguous, describe, device, windows, written_in_place
from .padding import pad

__all__ = ["fold", "tile", "unfold", "untile"]


@at_home
def unfold(
    x: Array,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[Any] = 0,
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> Array:
    """Every window of an image as a column: PyTorch's ``unfold``, along any number of spatial axes.

    Parameters
    ----------
    x
        The images, their axes as ``layout`` spells them, by default batch, channels and space.
    kernel_size
        How many taps a window has along the spatial axes, one number for all or one for each.
    stride, padding, dilation
        As in :func:`polyconv.conv`; margins are zero.
    layout
        The axes of ``x``. Channels come before space or after it.

    Returns
    -------
    array
        ``(N, C * taps, windows)``, the taps of a channel together, as PyTorch has it; where channels come last,
        ``(N, windows, taps * C)``, whose product with a kernel ``HWIO`` of as many rows is the convolution. Without
        batch or channels in the layout, without those.

    Raises
    ------
    ValueError, TypeError
        As :func:`polyconv.conv` does.
    """
    call = read_windows(x, kernel_size, stride, padding, dilation, layout)
    p, xp, n = call.problem, describe(x, "x").xp, call.problem.ndim
    x = pad(x, call.pad_widths, "constant", xp)
    x = xp.reshape(xp.permute_dims(x, call.image_axes), (p.batch, p.groups, 1, *p.padded_size))
    view = xp.permute_dims(windows(x, p.padded, xp), (0, 1, *range(3, 3 + 2 * n), 2))
    channels = () if "C" not in call.layout else (p.groups,)
    batch = () if "N" not in call.layout else (p.batch,)
    if p.channels_last:
        view = xp.permute_dims(view, (0, *range(2 + n, 2 + 2 * n), *range(2, 2 + n), 1, 2 + 2 * n))
        return contiguous(xp.reshape(view, (*batch, p.positions, p.taps * math.prod(channels))))
    return contiguous(xp.reshape(view, (*batch, math.prod(channels) * p.taps, p.positions)))


@at_home
def fold(
    columns: Array,
    output_size: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[Any] = 0,
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> Array:
    """The adjoint of :func:`unfold`: every column is added to where its window was.

    Parameters
    ----------
    columns
        What :func:`unfold` makes of an image of this layout.
    output_size
        The image's size along the spatial axes.
    kernel_size, stride, padding, dilation
        As in :func:`unfold`.
    layout
        The axes of the image, by default batch, channels and space.

    Returns
    -------
    array
        The image, in ``layout``. Pixels that lie in several windows are sums, those in none are zero.
    """
    call = read_columns(columns, output_size, kernel_size, stride, padding, dilation, layout)
    p, spec = call.problem, describe(columns, "columns")
    xp, n = spec.xp, p.ndim
    if p.channels_last:
        columns = xp.reshape(columns, (p.batch, *p.output_size, *p.kernel, p.groups))
        columns = xp.permute_dims(columns, (0, 1 + 2 * n, *range(1 + n, 1 + 2 * n), *range(1, 1 + n)))
    else:
        columns = xp.reshape(columns, (p.batch, p.groups, *p.kernel, *p.output_size))
    x = xp.zeros((p.batch, p.groups, *p.padded_size), dtype=spec.dtype, device=device(columns))
    everything = (slice(None), slice(None))
    for taps in product(*map(range, p.kernel)):
        places = (
            slice(tap * d, tap * d + (outputs - 1) * s + 1, s)
            for tap, d, s, outputs in zip(taps, p.dilation, p.stride, p.output_size, strict=True)
        )
        where = (*everything, *places)
        if written_in_place(columns):
            x[where] += columns[(*everything, *taps, ...)]
        else:
            import array_api_extra as xpx  # slow to import, and few need it

            x = xpx.at(x, where).add(columns[(*everything, *taps, ...)], xp=xp)
    x = x[(*everything, *(slice(low, low + size) for (low, _), size in zip(p.padding, p.size, strict=True)))]
    spelled = "NC" + "".join(letter for letter in call.layout if letter not in "NC")
    x = x[tuple(0 if letter in "NC" and letter not in call.layout else slice(None) for letter in spelled)]
    spelled = "".join(letter for letter in spelled if letter in call.layout)
    return contiguous(xp.permute_dims(x, tuple(map(spelled.index, call.layout))))


@at_home
def tile(x: Array, size: int | Sequence[int], *, layout: str | None = None) -> Array:
    """An image in blocks: tiles of ``size``, each contiguous in memory.

    Parameters
    ----------
    x
        The images, their axes as ``layout`` spells them, by default batch, channels and space.
    size
        The size of a tile along the spatial axes, one number for all or one for each; it must divide the image's.
    layout
        The axes of ``x``.

    Returns
    -------
    array
        The axes of ``x``, each spatial one now counting tiles, and then those within a tile, followed by channels if
        these come last: ``(N, C, H / h, W / w, h, w)`` or ``(N, H / h, W / w, h, w, C)``.
    """
    layout, sizes = read_tiles(x, "x", size, layout)
    spec = describe(x, "x")
    outer: list[int] = []
    order: list[int] = []
    for letter, length in zip(layout, spec.shape, strict=True):
        order.append(len(outer))
        outer += [length // sizes[letter], sizes[letter]] if letter in sizes else [length]
    within = [order[layout.index(letter)] + 1 for letter in layout if letter in sizes]
    last = layout.index(next(letter for letter in reversed(layout) if letter in sizes)) + 1
    axes = (*order[:last], *within, *order[last:])
    return contiguous(spec.xp.permute_dims(spec.xp.reshape(x, tuple(outer)), axes))


@at_home
def untile(tiles: Array, *, layout: str | None = None) -> Array:
    """The image whose tiles these are: ``untile(tile(x, size, layout=layout), layout=layout)`` is ``x``.

    Parameters
    ----------
    tiles
        What :func:`tile` made.
    layout
        The axes of the image, by default batch, channels and space.

    Returns
    -------
    array
        The image.
    """
    layout, sizes = read_tiles(tiles, "tiles", None, layout)
    spec = describe(tiles, "tiles")
    spatial = [letter for letter in layout if letter in sizes]
    last = layout.index(spatial[-1]) + 1
    place = {letter: i if i < last else i + len(spatial) for i, letter in enumerate(layout)}
    axes = [
        a
        for letter in layout
        for a in ([place[letter], last + spatial.index(letter)] if letter in sizes else [place[letter]])
    ]
    shape = tuple(
        spec.shape[place[letter]] * (spec.shape[last + spatial.index(letter)] if letter in sizes else 1)
        for letter in layout
    )
    return contiguous(spec.xp.reshape(spec.xp.permute_dims(tiles, tuple(axes)), shape))
