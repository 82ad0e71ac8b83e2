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
def _forward(element, bt, points, x, place, step, runs, some_groups, first, last, room, begin, plane, border):
    """Transform as many rows of pixels, ``step`` apart, as there are ``points``, to rows that are a ``plane`` apart.

    ``some_groups`` are how many are transformed, and how far apart in ``x`` and in ``room``.

    The image has those from ``first`` to before ``last`` of them. The others are zero, and where there are any, pixels
    are put together first, at ``border``, a vector of each row; one of zeros comes behind them.
    """
    number, apart, length = runs
    groups, x_group, room_group = some_groups
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
def _backward(element, at, room, products, step, panel, some, y, end, y_row, y_pixel, filters, outputs, past):
    """Transform the products of ``some`` pixels by as many ``filters`` back, and put those ``outputs`` in place."""
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
def _winograd(
    member, first_unit, last_unit, bt, at, element, several, together, step, past, x, w, y, room, size,
    images, groups, bundle, places, lines, blocks, x_row, height, apart, phases, points, runs, line, margin, passes, x_pixel,
    products, border, filters, panel, outputs, strip, y_row, y_pixel,
):  # fmt: skip
    """Convolve rows of blocks. A unit is one of them, at one place on the axes before, in some groups of an image.

    ``bt`` and ``at`` are the matrices of both transforms, ``several``, ``together`` and ``step`` are as in
    :func:`polyconv.compiled.microkernel.sweep`. A result that outgrows the caches is stored ``past`` them, if that is
    not empty. ``images`` is how many there are, how far apart they are in ``x`` and ``y``, and how far groups; there are
    ``groups``, of which a unit takes as many as ``bundle``, whose pixels lie side by side. All of an image and of the next
    comes before other groups, whose kernel is another.

    ``places`` says where the result begins for each place on the axes before, and ``lines``, ``(places, taps)``, where
    the image does for each tap on these, or less than zero where it has nothing there. ``blocks``, ``(blocks, 3)``, has for
    each its first row of the ``height`` rows of an image, which are ``x_row`` apart, where its results are, and how many
    rows of them there are. A block has as many ``phases``, each of ``points`` rows that are ``apart``. ``runs`` is what of a
    group's row lies together: how many stretches, how far apart, and how long.

    ``room``, of ``size`` elements for every member, holds transformed rows, ``(bundle, points, taps, phases, line)``, then,
    from ``border`` on, ``(points + 1, lanes)``, and from ``products`` on, ``(points, strip, panel, lanes)``; all before the
    products is zero when it comes. A ``line`` is of pixels and zeros around them, of which ``margin`` elements come first.
    ``passes`` is where in transformed rows the taps of each pass begin. ``outputs`` are ``x_pixel`` apart there and
    ``y_pixel`` in the result, and ``strip`` of them are convolved at a time. ``w`` is ``(groups, vectors of filters, points,
    passes, several, lanes)``.
    """
    lanes = lanes_of(element)
    number, x_image, y_image, x_group, y_group = images
    taps, high = lines.shape[1], panel * lanes
    plane, vectors, rows = taps * phases * line, -(-filters // lanes), passes.size * len(several) * lanes
    own = member * size
    for unit in range(first_unit, last_unit):
        rest, block = divmod(unit, blocks.shape[0])
        rest, place = divmod(rest, lines.shape[0])
        which, image = divmod(rest, number)
        base, bundled = which * bundle, min(bundle, groups - which * bundle)
        for tap in range(taps):
            for phase in range(phases):
                row = blocks[block, 0] + phase
                begin, end = max(0, -(row // apart)), min(points, -((row - height) // apart))
                if lines[place, tap] < 0:
                    begin, end = points, points
                _forward(
                    element, bt, points, x, image * x_image + base * x_group + lines[place, tap] + row * x_row,
                    apart * x_row, runs, (bundled, x_group, points * plane), begin, end,
                    room, own + (tap * phases + phase) * line + margin, plane, own + border,
                )  # fmt: skip
        for group in range(base, base + bundled):
            there = image * y_image + group * y_group + places[place] + blocks[block, 1]
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
                        y, there + start * y_pixel + first * lanes, y_row, y_pixel, min(high, filters - first * lanes),
                        blocks[block, 2], past,
                    )  # fmt: skip


@kept(nogil=True)
def winograd(workers, units, bt, at, *args):
    """Run :func:`_winograd`."""
    share(_winograd((bt, at, *args)), workers, units)
