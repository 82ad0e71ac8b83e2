"""Winograd's method block by block: gathered, transformed, multiplied and put in place while they are in cache.

All three transforms' matrix products, small as they are, and the large one between them go through the same
micro-kernel. Channels are innermost; arrays come flat, and offsets are in elements.
"""

from __future__ import annotations

from numba import njit

from .microkernel import copy, multiply
from .team import share, shared

__all__ = ["kernel_panels", "winograd"]


@njit(nogil=True, cache=True)
def kernel_panels(
    element, inputs, vectors, g, there, w, w_group, w_channel, w_lines, panels, panel_lines,
    scratch, width, channels, filters, groups,
):  # fmt: skip
    """Transform the kernel of every channel and ``width`` filters at a time: what :func:`winograd` takes for ``w``.

    ``there``, ``w_lines`` and ``panel_lines`` are as ``there``, ``x_lines`` and ``image_lines``; filters are innermost
    in ``w``.
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
                        end = ((group * -(-filters // width) + k // width) * channels + c) * width
                    step, to, height, length, matrix, lines = there[axis]
                    for line in range(lines):
                        multiply(
                            element, inputs, vectors, (0,), g, matrix, length, 1,
                            source, place + w_lines[axis, line], step, target, end + panel_lines[axis, line], to,
                            0, height, min(width, filters - k), 0, length, False,
                        )  # fmt: skip
                    source, place = scratch, 0


@shared
def _winograd(
    member, first_unit, last_unit, element, inputs, outputs, wide, rows, vectors, depth, lanes, together,
    images, x, x_blocks, x_image, x_group, x_pixels, pixels, x_inside, bt, there, x_lines, image_lines,
    w, width, points, channels, filters, groups, image, products, scratch, rooms,
    y, y_blocks, y_image, y_group, at, back, product_lines, y_lines, last, inside,
):  # fmt: skip
    """Convolve all blocks of ``images``, ``together`` at a time.

    ``inputs`` and ``outputs`` are tuples as long as a block has of them along an axis at most, ``wide`` as it takes
    vectors of ``lanes`` channels to transform; ``rows`` and ``vectors`` are the block of the product. ``x_blocks`` and
    ``y_blocks`` say where the blocks of an image begin, ``inside``, ``(blocks, axes)``, how many of their outputs there
    are, and ``x_inside``, ``(blocks, axes, 2)``, the first of their inputs that the image has and the one after the last:
    what lies beyond is zero, and such a block is put together first. ``pixels``, ``(points, axes)``, are the coordinates of
    the inputs of a block, and ``x_pixels`` how far they lie from where it begins.

    Lines are transformed axis by axis. ``x_lines`` and ``image_lines``, ``(axes, lines)``, say where they begin and
    where they are put, and a row of ``there``, ``(axes, 6)``, how far their entries lie apart here and there, how many
    go and come, where in ``bt`` the matrix is, and how many lines there are. ``back``, ``product_lines`` and
    ``y_lines`` are the same for the way back. The way there is told twice, from the image and from a block that was put
    together, ``(2, axes, ...)``. ``last``, ``(lines, axes - 1)``, are the coordinates of the lines of the last axis on the
    way back.

    ``w`` is ``(points, groups, panels, channels, width)``. ``image``, ``(points, channels / depth, together, depth)``,
    ``products``, ``(points, panels, together, width)``, and ``scratch``, ``(2 * points + 1, lanes)``, whose last row is
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
                        step, to, height, length, matrix, lines = there[beyond, axis]
                        for line in range(lines):
                            multiply(
                                element, inputs, wide, (0,), bt, matrix, length, 1,
                                source, place + x_lines[beyond, axis, line], step,
                                target, end + image_lines[axis, line], to,
                                0, height, some, 0, length, False,
                            )  # fmt: skip
                        source, place = scratch, 0
        calls = -(-number // len(rows))
        for point in range(points):
            for panel in range(panels):
                made = (point * panels + panel) * together * width
                place = ((point * groups + group) * panels + panel) * channels * width
                for c in range(0, channels, depth):
                    deep = min(depth, channels - c)
                    image_chunk = (point * channels + c) * together
                    w_soon, w_move = place + (c + deep) * width, -(-width // calls)
                    for block in range(0, number, len(rows)):
                        multiply(
                            element, rows, vectors, (0,), image, image_chunk - c, deep, 1,
                            w, place, width, products, made, width,
                            block, min(len(rows), number - block), min(width, filters - panel * width),
                            c, c + deep, c > 0, (),
                            image_chunk + (block + len(rows)) * deep, (len(rows),), w_soon, (w_move,),
                        )  # fmt: skip
                        w_soon += deep * w_move
        for block in range(number):
            one, which = divmod(begin + block, each)
            for panel in range(panels):
                filled = min((panel + 1) * width, filters)
                for k in range(panel * width, filled, lanes):
                    source, place = products, (panel * together + block - panel) * width + k
                    for axis in range(axes):
                        final = axis == axes - 1
                        target, end = (
                            (y, one * y_image + y_blocks[which] + group * y_group + k) if final else (scratch, 0)
                        )
                        step, to, height, length, matrix, lines = back[axis]
                        if final:
                            height = inside[which, axis]
                        for line in range(lines):
                            wanted = True
                            if final:
                                for other in range(axis):
                                    wanted = wanted and last[line, other] < inside[which, other]
                            if wanted:
                                multiply(
                                    element, outputs, wide, (0,), at, matrix, length, 1,
                                    source, place + product_lines[axis, line], step,
                                    target, end + y_lines[axis, line], to,
                                    0, height, min(lanes, filled - k), 0, length, False,
                                )  # fmt: skip
                        source, place = scratch, 0


@njit(nogil=True, cache=True)
def winograd(workers, units, *args):
    """Run :func:`_winograd`."""
    share(_winograd(args), workers, units)
