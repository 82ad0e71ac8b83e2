"""Winograd's method block by block: gathered, transformed, multiplied and put in place while they are in cache.

The transforms are straight-line code, written for their matrices, and the large product between them goes through the
micro-kernel. Channels are innermost; arrays come flat, and offsets are in elements.
"""

from __future__ import annotations

from numba import njit

from .codelets import transform
from .kept import kept
from .microkernel import copy, multiply
from .team import share, shared

__all__ = ["kernel_panels", "winograd"]


@njit(nogil=True)
def _put_together(element, x, place, x_pixels, pixels, x_inside, which, scratch, lanes, some):
    """A block of which the image has but a part, and zeros, in the second part of ``scratch``: where it begins there."""
    points, axes = pixels.shape
    border, zeros = points * lanes, 2 * points * lanes
    for point in range(points):
        inside = True
        for axis in range(axes):
            pixel = pixels[point, axis]
            inside = inside and x_inside[which, axis, 0] <= pixel < x_inside[which, axis, 1]
        if inside:
            copy(element, x, place + x_pixels[point], scratch, border + point * lanes, some)
        else:
            copy(element, scratch, zeros, scratch, border + point * lanes, some)
    return border


@njit(nogil=True)
def _forward(element, bt, wide, source, place, scratch, image, end, way, there, x_lines, image_lines, some):
    """Transform some channels of a block, axis by axis, the one ``way`` or the other, to its place in ``image``."""
    last = there.shape[1] - 1
    for axis in range(last + 1):
        target, begin = (image, end) if axis == last else (scratch, 0)
        for line in range(there[way, axis, 4]):
            transform(
                element, bt, axis, wide, source, place + x_lines[way, axis, line], there[way, axis, 0],
                target, begin + image_lines[axis, line], there[way, axis, 1], some, there[way, axis, 2], (),
            )  # fmt: skip
        source, place = scratch, 0


@njit(nogil=True)
def _multiply(
    element, rows, vectors, depth, image, together, number, w, panel, width, points, channels, products, filled
):  # fmt: skip
    """The products of ``number`` blocks with a panel of the kernel, point by point.

    They go through memory from end to end, and know what comes next: while a few blocks are multiplied, the next ones
    are fetched, and a part of the next ``depth`` channels' kernel, which is read but once for all blocks and seldom in
    cache.
    """
    share_of_kernel = -(-width // -(-number // len(rows)))
    code, kernel, result = (rows, vectors, (0,), (0,), ()), (w, width), (products, width)
    for point in range(points):
        made, place = point * together * width, panel + point * channels * width
        for c in range(0, channels, depth):
            deep = min(depth, channels - c)
            chunk = (point * channels + c) * together
            w_soon = place + (c + deep) * width
            for block in range(0, number, len(rows)):
                soon = chunk + (block + len(rows)) * deep, (len(rows),), w_soon, (share_of_kernel,)
                multiply(
                    element, code, (image, deep, 1), kernel, result, (chunk - c, place, made),
                    block, min(len(rows), number - block), filled, c, c + deep, c > 0, soon,
                )  # fmt: skip
                w_soon += deep * share_of_kernel


@njit(nogil=True)
def _backward(
    element, at, wide, products, place, scratch, y, end, back, product_lines, y_lines, last, inside, which, some, past
):  # fmt: skip
    """Transform some filters of a block's products back, and put those outputs in place that there are."""
    axis, source = len(back) - 1, products
    for before in range(axis):
        for line in range(back[before, 4]):
            transform(
                element, at, before, wide, source, place + product_lines[before, line], back[before, 0],
                scratch, y_lines[before, line], back[before, 1], some, back[before, 2], (),
            )  # fmt: skip
        source, place = scratch, 0
    for line in range(back[axis, 4]):
        wanted = True
        for other in range(axis):
            wanted = wanted and last[line, other] < inside[which, other]
        if wanted:
            transform(
                element, at, axis, wide, source, place + product_lines[axis, line], back[axis, 0],
                y, end + y_lines[axis, line], back[axis, 1], some, inside[which, axis], past,
            )  # fmt: skip


@kept(nogil=True)
def kernel_panels(
    element, g, wide, there, w, w_group, w_channel, w_lines, panels, panel_lines, scratch, width, points, channels,
    filters, groups,
):  # fmt: skip
    """Transform the kernel of every channel and ``width`` filters at a time: what :func:`winograd` takes for ``w``.

    ``g`` is a matrix for every axis; ``there``, ``w_lines`` and ``panel_lines`` are as ``there``, ``x_lines`` and
    ``image_lines``, but there is one way alone; filters are innermost in ``w``.
    """
    for group in range(groups):
        for k in range(0, filters, width):
            panel = (group * -(-filters // width) + k // width) * points * channels
            for c in range(channels):
                _forward(
                    element, g, wide, w, group * w_group + c * w_channel + k, scratch, panels, (panel + c) * width,
                    0, there, w_lines, panel_lines, min(width, filters - k),
                )  # fmt: skip


@shared
def _winograd(
    member, first_unit, last_unit, bt, at, element, wide, rows, vectors, past, depth, lanes, together,
    images, x, x_blocks, x_image, x_group, x_pixels, pixels, x_inside, there, x_lines, image_lines,
    w, width, points, channels, filters, groups, image, products, scratch, rooms,
    y, y_blocks, y_image, y_group, back, product_lines, y_lines, last, inside,
):  # fmt: skip
    """Convolve all blocks of ``images``, ``together`` at a time.

    ``bt`` and ``at`` are the matrices of both transforms, one for each axis, and ``wide`` is a tuple as long as it takes
    vectors to transform ``lanes`` channels; ``rows`` and ``vectors`` are the block of the product. A result that outgrows
    the caches is stored ``past`` them, if that is not empty. ``x_blocks`` and ``y_blocks`` say where the blocks of an image
    begin, ``inside``, ``(blocks, axes)``, how many of their outputs there are, and ``x_inside``, ``(blocks, axes, 2)``, the
    first of their inputs that the image has and the one after the last: what lies beyond is zero, and such a block is put
    together first. ``pixels``, ``(points, axes)``, are the coordinates of the inputs of a block, and ``x_pixels`` how far
    they lie from where it begins.

    Lines are transformed axis by axis. ``x_lines`` and ``image_lines``, ``(axes, lines)``, say where they begin and
    where they are put, and a row of ``there``, ``(axes, 5)``, how far their entries lie apart here and there, how many
    come and go, and how many lines there are. ``back``, ``product_lines`` and
    ``y_lines`` are the same for the way back. The way there is told twice, from the image and from a block that was put
    together, ``(2, axes, ...)``. ``last``, ``(lines, axes - 1)``, are the coordinates of the lines of the last axis on the
    way back.

    ``w`` is ``(groups, panels, points, channels, width)``. ``image``, ``(points, channels / depth, together, depth)``,
    ``products``, ``(points, together, width)``, of one panel, and ``scratch``, ``(2 * points + 1, lanes)``, whose last row is
    zero, are workspace, of which every member has its own, so many bytes apart as ``rooms`` says of each. A unit is
    ``together`` blocks, in a group.
    """
    axes, each = len(back), len(x_blocks)
    image, products, scratch = image + member * rooms[0], products + member * rooms[1], scratch + member * rooms[2]
    panels = -(-filters // width)
    for unit in range(first_unit, last_unit):
        begin, group = divmod(unit, groups)
        begin *= together
        number = min(together, images * each - begin)
        for block in range(number):
            one, which = divmod(begin + block, each)
            beyond = 0
            for axis in range(axes):
                if x_inside[which, axis, 0] > 0 or x_inside[which, axis, 1] < there[0, axis, 3]:
                    beyond = 1
            for start in range(0, channels, depth):
                deep = min(depth, channels - start)
                for c in range(start, start + deep, lanes):
                    some = min(lanes, start + deep - c)
                    source, place = x, one * x_image + x_blocks[which] + group * x_group + c
                    if beyond:
                        place = _put_together(
                            element, x, place, x_pixels, pixels, x_inside, which, scratch, lanes, some
                        )
                        source = scratch
                    _forward(
                        element, bt, wide, source, place, scratch, image, start * together + block * deep + c - start,
                        beyond, there, x_lines, image_lines, some,
                    )  # fmt: skip
        for panel in range(panels):
            filled = min(width, filters - panel * width)
            _multiply(
                element, rows, vectors, depth, image, together, number,
                w, (group * panels + panel) * points * channels * width, width, points, channels, products, filled,
            )  # fmt: skip
            for block in range(number):
                one, which = divmod(begin + block, each)
                end = one * y_image + y_blocks[which] + group * y_group + panel * width
                for k in range(0, filled, lanes):
                    _backward(
                        element, at, wide, products, block * width + k, scratch, y, end + k,
                        back, product_lines, y_lines, last, inside, which, min(lanes, filled - k), past,
                    )  # fmt: skip


@kept(nogil=True)
def winograd(workers, units, bt, at, *args):
    """Run :func:`_winograd`."""
    share(_winograd((bt, at, *args)), workers, units)
