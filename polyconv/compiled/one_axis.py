"""Winograd's method along one axis and the definition along the others: row by row, while a row is in cache.

Rows of the image are transformed across, so that no vector is ever taken apart; each transformed row is convolved with
a transformed row of the kernel, and what that leaves is transformed back. Channels are innermost; arrays come flat, and
offsets are in elements.
"""

from __future__ import annotations

from numba import njit

from .codelets import transform
from .kept import kept
from .microkernel import copy, sweep
from .team import share, shared
from .vectors import lanes_of

__all__ = ["winograd"]


@njit(nogil=True)
def _forward(element, bt, points, x, place, step, groups, first, last, room, begin, plane, room_group, border):
    """Transform as many rows of pixels, ``step`` apart, as there are ``points``, to rows that are a ``plane`` apart.

    Those are of so many ``groups``, and ``room_group`` apart where they go. The image has those from ``first`` to before
    ``last`` of them. The others are zero, and where there are any, pixels are put together first, at ``border``, a
    vector of each row; one of zeros comes behind them.
    """
    x, _, x_group, _, (number, apart, length), _ = x
    lanes = lanes_of(element)
    for run in range(number):
        for group in range(groups):
            for lane in range(0, length, lanes):
                i = max(0, min(lane, length - lanes))  # the last vector lies over the one before
                some, target = min(lanes, length - i), begin + group * room_group + run * length + i
                source, start, next_row = x, place + group * x_group + run * apart + i, step
                if first > 0 or last < points:
                    for point in range(points):
                        if first <= point < last:
                            copy(element, x, start + point * step, room, border + point * lanes, some)
                        else:
                            copy(element, room, border + points * lanes, room, border + point * lanes, some)
                    source, start, next_row = room, border, lanes
                transform(element, bt, 0, (0,), source, start, next_row, room, target, plane, some, points, ())


@njit(nogil=True)
def _backward(element, at, room, products, step, panel, some, y, end, filters, outputs, past):
    """Transform the products of ``some`` pixels by as many ``filters`` back, and put those ``outputs`` in place."""
    y, _, _, y_row, y_pixel, _ = y
    lanes = lanes_of(element)
    runs, length = some, filters
    if y_pixel == filters == panel:  # pixels follow each other there as they do here
        runs, length = 1, some * panel
    for run in range(runs):
        for lane in range(0, length, lanes):
            transform(
                element, at, 0, (0,), room, products + run * panel + lane, step,
                y, end + run * y_pixel + lane, y_row, min(lanes, length - lane), outputs, past,
            )  # fmt: skip


@shared
def _winograd(member, first_unit, last_unit, bt, at, element, code, lengths, x, w, y, blocks, passes, room):
    """Convolve rows of blocks. A unit is one of them, at one place on the axes before, in some groups of an image.

    All of an image and of the next comes before other groups, whose kernel is another. ``bt`` and ``at`` are the
    matrices of both transforms. The ``code`` is four tuples: ``several``, ``together`` and ``step`` as :func:`sweep`
    takes them, and if the fourth is not empty, results are stored ``past`` the caches, which they outgrow. ``lengths`` are
    how many images there are; how many groups, and in a ``bundle``, whose pixels lie side by side: so many a unit takes;
    how many filters, and vectors of them in a ``panel``; and how many outputs a row has, and in a ``strip``: so many are
    convolved at a time.

    ``x`` is an address, how far apart images, groups and rows are; what of a group's row lies together: how many
    stretches, how far apart, and how long; and ``(places, taps)``, where the image begins for each place and tap on the
    axes before, or less than zero where it has nothing there. ``y`` is an address, how far apart images, groups, rows
    and pixels are, and where the result begins for each place. ``w`` is the address of ``(groups, vectors of filters,
    points, passes, several, lanes)``.

    ``blocks`` is how many ``points`` they have, how many ``phases`` of as many rows each, how far ``apart`` these are, the
    ``height`` of an image, in rows, and ``(blocks, 3)``: of each its first row, where its results are, and how many rows of
    them there are. ``passes`` is where in transformed rows the taps of each pass begin, and how far apart outputs are.

    ``room`` is workspace: an address, its size for every member; of its rows the length, which are of pixels and zeros
    around them, and how many zeros come first; where in it the border begins, and where products. It holds transformed
    rows, ``(bundle, points, taps, phases, line)``, then ``(points + 1, lanes)``, and then products, ``(points, strip,
    panel, lanes)``; all before these is zero when it comes.
    """
    several, together, step, past = code
    _, x_image, x_group, x_row, _, lines = x
    _, y_image, y_group, _, y_pixel, places = y
    points, phases, apart, height, table = blocks
    images, (groups, bundle), (filters, panel), (outputs, strip) = lengths
    passes, x_pixel = passes
    room, size, line, margin, border, products = room
    lanes = lanes_of(element)
    taps, high = lines.shape[1], panel * lanes
    plane, vectors, rows = taps * phases * line, -(-filters // lanes), passes.size * len(several) * lanes
    own = member * size
    for unit in range(first_unit, last_unit):
        rest, block = divmod(unit, table.shape[0])
        rest, place = divmod(rest, lines.shape[0])
        which, image = divmod(rest, images)
        base, bundled = which * bundle, min(bundle, groups - which * bundle)
        for tap in range(taps):
            for phase in range(phases):
                row = table[block, 0] + phase
                begin, end = max(0, -(row // apart)), min(points, -((row - height) // apart))
                if lines[place, tap] < 0:
                    begin, end = points, points
                _forward(
                    element, bt, points, x, image * x_image + base * x_group + lines[place, tap] + row * x_row,
                    apart * x_row, bundled, begin, end,
                    room, own + (tap * phases + phase) * line + margin, plane, points * plane, own + border,
                )  # fmt: skip
        for group in range(base, base + bundled):
            there = image * y_image + group * y_group + places[place] + table[block, 1]
            here = own + (group - base) * points * plane
            for start in range(0, outputs, strip):
                some = min(strip, outputs - start)
                whole = -(-some // len(together)) * len(together)
                for first in range(0, vectors, panel):
                    for point in range(points):
                        for vector in range(first, min(first + panel, vectors)):
                            w_point = ((group * vectors + vector) * points + point) * rows
                            made = own + products + point * strip * high + (vector - first) * lanes
                            for i in range(passes.size):
                                pixels = here + point * plane + passes[i] + start * x_pixel
                                sweep(
                                    element, (several, together, step), (room, x_pixel), (w, lanes), (room, high),
                                    (pixels, w_point + i * len(several) * lanes, made), whole, i > 0,
                                )  # fmt: skip
                    _backward(
                        element, at, room, own + products, strip * high, high, some,
                        y, there + start * y_pixel + first * lanes, min(high, filters - first * lanes),
                        table[block, 2], past,
                    )  # fmt: skip


@kept(nogil=True)
def winograd(workers, units, bt, at, *args):
    """Run :func:`_winograd`."""
    share(_winograd((bt, at, *args)), workers, units)
