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
def _put_together(element, x, place, which, scratch, lanes, some):
    """A block of which the image has but a part, and zeros, in the second part of ``scratch``: where it begins there."""
    x, _, _, _, inside, there, pixels = x
    points, axes = pixels.shape
    border, zeros = points * lanes, 2 * points * lanes
    for point in range(points):
        has = True
        for axis in range(axes):
            pixel = pixels[point, axis]
            has = has and inside[which, axis, 0] <= pixel < inside[which, axis, 1]
        if has:
            copy(element, x, place + there[point], scratch, border + point * lanes, some)
        else:
            copy(element, scratch, zeros, scratch, border + point * lanes, some)
    return border


@njit(nogil=True)
def _forward(element, matrices, wide, there, way, source, place, scratch, target, end, some):
    """Transform some channels of a block, axis by axis, the one ``way`` or the other, to its place in ``target``."""
    steps, from_lines, to_lines = there
    last = steps.shape[1] - 1
    for axis in range(last + 1):
        to, begin = (target, end) if axis == last else (scratch, 0)
        for line in range(steps[way, axis, 4]):
            transform(
                element, matrices, axis, wide, source, place + from_lines[way, axis, line], steps[way, axis, 0],
                to, begin + to_lines[axis, line], steps[way, axis, 1], some, steps[way, axis, 2], (),
            )  # fmt: skip
        source, place = scratch, 0


@njit(nogil=True)
def _multiply(element, code, sizes, image, number, w, panel, products, filled):
    """The products of ``number`` blocks with a ``panel`` of the kernel, point by point.

    They go through memory from end to end, and know what comes next: while a few blocks are multiplied, the next ones
    are fetched, and a part of the next ``depth`` channels' kernel, which is read but once for all blocks and seldom in
    cache.
    """
    _, rows, vectors, _ = code
    channels, depth, together, _ = sizes
    w, width, points = w
    share_of_kernel = -(-width // -(-number // len(rows)))
    code, kernel, result = (rows, vectors, (0,), (0,), ()), (w, width), (products, width)
    for point in range(points):
        made, place = point * together * width, (panel * points + point) * channels * width
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
def _backward(element, at, wide, back, source, place, scratch, y, which, end, some, past):
    """Transform some filters of a block's products back, and put those outputs in place that there are."""
    steps, from_lines, to_lines, last = back
    y, _, _, _, inside = y
    axis = len(steps) - 1
    for before in range(axis):
        for line in range(steps[before, 4]):
            transform(
                element, at, before, wide, source, place + from_lines[before, line], steps[before, 0],
                scratch, to_lines[before, line], steps[before, 1], some, steps[before, 2], (),
            )  # fmt: skip
        source, place = scratch, 0
    for line in range(steps[axis, 4]):
        wanted = True
        for other in range(axis):
            wanted = wanted and last[line, other] < inside[which, other]
        if wanted:
            transform(
                element, at, axis, wide, source, place + from_lines[axis, line], steps[axis, 0],
                y, end + to_lines[axis, line], steps[axis, 1], some, inside[which, axis], past,
            )  # fmt: skip


@kept(nogil=True)
def kernel_panels(element, g, wide, there, groups, channels, filters, w, panels, scratch):
    """Transform the kernel of every channel and a panel's filters at a time: what :func:`winograd` takes for ``w``.

    ``g`` is a matrix for every axis, ``there`` as below, but of one way alone. ``w`` is an address and how far apart
    groups and channels are, filters being innermost; ``panels`` an address, how many filters one has, and points.
    """
    (w, w_group, w_channel), (panels, width, points) = w, panels
    for group in range(groups):
        for k in range(0, filters, width):
            panel = (group * -(-filters // width) + k // width) * points * channels
            for c in range(channels):
                _forward(
                    element, g, wide, there, 0, w, group * w_group + c * w_channel + k, scratch,
                    panels, (panel + c) * width, min(width, filters - k),
                )  # fmt: skip


@shared
def _winograd(
    member, first_unit, last_unit, bt, at, element, code, images, groups, filters, sizes, x, there, w, y, back, rooms
):
    """Convolve all blocks of ``images``, some together. A unit is as many, in a group.

    ``bt`` and ``at`` are the matrices of both transforms, one for each axis. The ``code`` is four tuples: ``wide`` is as
    long as it takes vectors to transform so many ``lanes``, ``rows`` and ``vectors`` are the block of the product, and a
    result that outgrows the caches is stored ``past`` them, if that is not empty. ``sizes`` are the ``channels``, the
    ``depth`` of a chunk of them, how many blocks are convolved ``together``, and ``lanes``.

    ``x`` is an address, how far apart images and groups are, where the blocks of an image begin, ``inside``, ``(blocks,
    axes, 2)``, the first of their pixels that the image has and the one after the last, how far from where a block
    begins its pixels lie, and ``(points, axes)``, their coordinates there. What lies beyond the image is zero, and such
    a block is put together first. ``y`` is an address, the same distances, where blocks begin, and ``inside``, ``(blocks,
    axes)``, how many outputs they have. ``w`` is the address of ``(groups, panels, points, channels, width)``, its ``width``,
    and how many points there are.

    Lines are transformed axis by axis. ``there`` has a table with a row for every axis, of how far the entries of a line
    lie apart here and there, how many come and go, and how many lines there are; then where lines begin here and there,
    ``(axes, lines)``. The way there is told twice, from the image and from a block that was put together: the first two
    are ``(2, axes, ...)``. ``back`` is the same for the way back, told once, and last ``(lines, axes - 1)``, the coordinates
    of the lines of the last axis.

    ``rooms`` are workspace, addresses and how many bytes the next member's is on: of transformed blocks, ``(points, channels
    / depth, together, depth)``, of products, ``(points, together, width)``, of one panel, and of what is on its way, ``(2 *
    points + 1, lanes)``, whose last row is zero.
    """
    wide, _, _, past = code
    channels, depth, together, lanes = sizes
    _, x_image, x_group, x_blocks, x_inside, _, _ = x
    _, y_image, y_group, y_blocks, _ = y
    _, width, _ = w
    image = rooms[0][0] + member * rooms[0][1]
    products = rooms[1][0] + member * rooms[1][1]
    scratch = rooms[2][0] + member * rooms[2][1]
    steps, each, panels = there[0], len(x_blocks), -(-filters // width)
    for unit in range(first_unit, last_unit):
        begin, group = divmod(unit, groups)
        begin *= together
        number = min(together, images * each - begin)
        for block in range(number):
            one, which = divmod(begin + block, each)
            beyond = 0
            for axis in range(steps.shape[1]):
                if x_inside[which, axis, 0] > 0 or x_inside[which, axis, 1] < steps[0, axis, 3]:
                    beyond = 1
            for start in range(0, channels, depth):
                deep = min(depth, channels - start)
                for c in range(start, start + deep, lanes):
                    some = min(lanes, start + deep - c)
                    source, place = x[0], one * x_image + x_blocks[which] + group * x_group + c
                    if beyond:
                        source, place = scratch, _put_together(element, x, place, which, scratch, lanes, some)
                    _forward(
                        element, bt, wide, there, beyond, source, place, scratch,
                        image, start * together + block * deep + c - start, some,
                    )  # fmt: skip
        for panel in range(panels):
            filled = min(width, filters - panel * width)
            _multiply(element, code, sizes, image, number, w, group * panels + panel, products, filled)
            for block in range(number):
                one, which = divmod(begin + block, each)
                end = one * y_image + y_blocks[which] + group * y_group + panel * width
                for k in range(0, filled, lanes):
                    _backward(
                        element, at, wide, back, products, block * width + k, scratch,
                        y, which, end + k, min(lanes, filled - k), past,
                    )  # fmt: skip


@kept(nogil=True)
def winograd(workers, units, bt, at, *args):
    """Run :func:`_winograd`."""
    share(_winograd((bt, at, *args)), workers, units)
