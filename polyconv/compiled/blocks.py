"""Winograd's method block by block: gathered, transformed, multiplied and put in place while they are in cache.

The transforms are straight-line code, written for their matrices, and the large product between them goes through the
micro-kernel. Channels are innermost; arrays come flat, and offsets are in elements.
"""

from __future__ import annotations

from numba import njit

from .codelets import transform
from .microkernel import copy, multiply
from .team import share, shared

__all__ = ["kernel_panels", "winograd"]


@njit(nogil=True, cache=True)
def kernel_panels(
    element, g, wide, there, w, w_group, w_channel, w_lines, panels, panel_lines, scratch, width, points, channels,
    filters, groups,
):  # fmt: skip
    """Transform the kernel of every channel and ``width`` filters at a time: what :func:`winograd` takes for ``w``.

    ``g`` is a matrix for every axis; ``there``, ``w_lines`` and ``panel_lines`` are as ``there``, ``x_lines`` and
    ``image_lines``; filters are innermost in ``w``.
    """
    axes = len(there)
    for group in range(groups):
        for k in range(0, filters, width):
            for c in range(channels):
                source, place = w, group * w_group + c * w_channel + k
                for axis in range(axes):
                    target, end = scratch, 0
                    if axis == axes - 1:
                        target = panels
                        end = ((group * -(-filters // width) + k // width) * points * channels + c) * width
                    step, to, height, lines = there[axis, 0], there[axis, 1], there[axis, 2], there[axis, 4]
                    for line in range(lines):
                        transform(
                            element, g, axis, wide, source, place + w_lines[axis, line], step,
                            target, end + panel_lines[axis, line], to, min(width, filters - k), height, (),
                        )  # fmt: skip
                    source, place = scratch, 0


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
    ``together`` blocks, in a group. The product thus goes through memory from end to end, and knows what comes next:
    while it multiplies a few blocks, the next ones are fetched, and a part of the next ``depth`` channels' kernel, which
    is read but once for all blocks and seldom in cache.
    """
    axes, each = len(back), len(x_blocks)
    blocks = images * each
    image, products, scratch = image + member * rooms[0], products + member * rooms[1], scratch + member * rooms[2]
    panels = -(-filters // width)
    border, zeros = points * lanes, 2 * points * lanes
    for unit in range(first_unit, last_unit):
        begin, group = divmod(unit, groups)
        begin *= together
        number = min(together, blocks - begin)
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
                        for point in range(points):
                            found = True
                            for axis in range(axes):
                                pixel = pixels[point, axis]
                                found = found and x_inside[which, axis, 0] <= pixel < x_inside[which, axis, 1]
                            if found:
                                copy(element, x, place + x_pixels[point], scratch, border + point * lanes, some)
                            else:
                                copy(element, scratch, zeros, scratch, border + point * lanes, some)
                        source, place = scratch, border
                    for axis in range(axes):
                        target, end = scratch, 0
                        if axis == axes - 1:
                            target, end = image, start * together + block * deep + c - start
                        step, to, height = there[beyond, axis, 0], there[beyond, axis, 1], there[beyond, axis, 2]
                        for line in range(there[beyond, axis, 4]):
                            transform(
                                element, bt, axis, wide, source, place + x_lines[beyond, axis, line], step,
                                target, end + image_lines[axis, line], to, some, height, (),
                            )  # fmt: skip
                        source, place = scratch, 0
        calls = -(-number // len(rows))
        for panel in range(panels):
            filled = min(width, filters - panel * width)
            for point in range(points):
                made = point * together * width
                place = ((group * panels + panel) * points + point) * channels * width
                for c in range(0, channels, depth):
                    deep = min(depth, channels - c)
                    image_chunk = (point * channels + c) * together
                    w_soon, w_move = place + (c + deep) * width, -(-width // calls)
                    for block in range(0, number, len(rows)):
                        multiply(
                            element, rows, vectors, (0,), image, image_chunk - c, deep, 1,
                            w, place, width, products, made, width,
                            block, min(len(rows), number - block), filled,
                            c, c + deep, c > 0, (),
                            image_chunk + (block + len(rows)) * deep, (len(rows),), w_soon, (w_move,),
                        )  # fmt: skip
                        w_soon += deep * w_move
            for block in range(number):
                one, which = divmod(begin + block, each)
                for k in range(0, filled, lanes):
                    source, place = products, block * width + k
                    for axis in range(axes - 1):
                        step, to, height = back[axis, 0], back[axis, 1], back[axis, 2]
                        for line in range(back[axis, 4]):
                            transform(
                                element, at, axis, wide, source, place + product_lines[axis, line], step,
                                scratch, y_lines[axis, line], to, min(lanes, filled - k), height, (),
                            )  # fmt: skip
                        source, place = scratch, 0
                    axis = axes - 1
                    step, to = back[axis, 0], back[axis, 1]
                    end = one * y_image + y_blocks[which] + group * y_group + panel * width + k
                    for line in range(back[axis, 4]):
                        wanted = True
                        for other in range(axis):
                            wanted = wanted and last[line, other] < inside[which, other]
                        if wanted:
                            transform(
                                element, at, axis, wide, source, place + product_lines[axis, line], step,
                                y, end + y_lines[axis, line], to, min(lanes, filled - k), inside[which, axis], past,
                            )  # fmt: skip


@njit(nogil=True, cache=True)
def winograd(workers, units, bt, at, *args):
    """Run :func:`_winograd`."""
    share(_winograd((bt, at, *args)), workers, units)
