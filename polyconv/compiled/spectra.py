"""Overlap-save block by block: gathered, transformed, multiplied and transformed back while they are in cache.

Vectors hold as many blocks as they have lanes, of one image, of several, or of channels that have kernels of their own.
A block is transformed row by row, two real rows as the real and imaginary parts of one; then along every other axis,
half of the frequencies alone, the other half being their conjugates. Offsets are in elements, arrays are addresses.

Where a zero is written ``int64(0)``, numba would else compile a function for it alone.

Blocks in lanes: ``spectra`` is ``(channels, rows, frequencies, 2, lanes)``, where ``rows`` are those of all axes but
the last.
"""

from __future__ import annotations

from numba import int64

from .butterflies import transform
from .kept import kept
from .team import share, shared
from .vectors import lanes_of, lanes_to_rows, load, load_first, rows_to_lanes, splat, store, store_first, zero

__all__ = ["convolve", "kernel"]


@kept(nogil=True)
def _bounds(places, number, bases, corners, row, start, lengths, sizes, most, steps):
    """Where a row of every block lies, and which of its elements are there: the first three rows of ``places``.

    Those are as ``rows_to_lanes`` takes them. The row ``bases`` of ``places``, ``(rows, lanes)``, says where the blocks
    of ``lengths`` begin in memory, those from ``corners`` on where in an array of ``sizes``; ``most`` of their elements
    count. Says whether there are any.
    """
    last, somewhere = len(lengths) - 1, False
    places[1:3] = 0
    for lane in range(number):
        corner = places[corners + last, lane]
        places[0, lane] = places[bases, lane] + start
        places[1, lane] = max(0, -corner)
        places[2, lane] = max(0, min(most[last], sizes[last] - corner))
    for axis in range(last - 1, -1, -1):
        rest = row // lengths[axis]
        i = row - rest * lengths[axis]
        row = rest
        if i >= most[axis]:
            return False
        for lane in range(number):
            places[0, lane] += i * steps[axis]
            if not 0 <= places[corners + axis, lane] + i < sizes[axis]:
                places[2, lane] = 0
    for lane in range(number):
        somewhere = somewhere or places[2, lane] > places[1, lane]
    return somewhere


@kept(nogil=True)
def _gather(element, x, step, interleaved, places, number, length, target, begin):
    """A row of every block: element ``j`` goes to ``begin + 2 * j * lanes``, zeros where there is none."""
    lanes = lanes_of(element)
    if not interleaved:
        rows_to_lanes(element, x, places, length, target, begin, 2 * lanes)
        return
    first, low, high = places[0, 0], places[1, 0], places[2, 0]
    for j in range(low):
        store(zero(element), target, begin + 2 * j * lanes)
    for j in range(low, high):
        store(load_first(element, x, first + j * step, number), target, begin + 2 * j * lanes)
    for j in range(high, length):
        store(zero(element), target, begin + 2 * j * lanes)


@kept(nogil=True)
def _rows_forward(
    element, x, step, interleaved, places, number, bases, corners, start, lengths, sizes, steps, plan, spectra, at,
    buffer, scratch,
):  # fmt: skip
    """Gather and transform all rows of blocks, two at a time, into ``spectra`` from ``at`` on; twice too large."""
    lanes, length = lanes_of(element), lengths[-1]
    half, rows, pair = length // 2 + 1, 1, 2 * lanes
    for axis in range(len(lengths) - 1):
        rows *= lengths[axis]
    for row in range(0, rows, 2):
        somewhere = False
        for part in range(2):
            there = row + part < rows and _bounds(
                places, 1 if interleaved else number, bases, corners, row + part, start, lengths, sizes, lengths, steps
            )
            somewhere = somewhere or there
            if there:
                _gather(element, x, step, interleaved, places, number, length, buffer, part * lanes)
            else:
                for j in range(length):
                    store(zero(element), buffer, j * pair + part * lanes)
        first = at + row * half * pair
        second = first + half * pair
        if not somewhere:
            for j in range(first, first + min(2, rows - row) * half * pair, lanes):
                store(zero(element), spectra, j)
            continue
        transform(element, plan, buffer, 0, pair, buffer, 0, pair, 0, scratch)
        for j in range(half):
            here, there = j * pair, (length - j if j else 0) * pair
            a, b = load(element, buffer, here), load(element, buffer, here + lanes)
            c, d = load(element, buffer, there), load(element, buffer, there + lanes)
            store(a + c, spectra, first + here)
            store(b - d, spectra, first + here + lanes)
            if row + 1 < rows:
                store(b + d, spectra, second + here)
                store(c - a, spectra, second + here + lanes)


@kept(nogil=True)
def _rows_backward(
    element, y, step, interleaved, places, number, bases, corners, start, lengths, sizes, most, steps, plan, spectra,
    buffer, scratch,
):  # fmt: skip
    """Transform those rows of blocks back that hold results, two at a time, and put these in place."""
    lanes, length = lanes_of(element), lengths[-1]
    half, rows, pair = length // 2 + 1, 1, 2 * lanes
    for axis in range(len(lengths) - 1):
        rows *= lengths[axis]
    for row in range(0, rows, 2):
        done = False
        for part in range(min(2, rows - row)):
            if not _bounds(
                places, 1 if interleaved else number, bases, corners, row + part, start, lengths, sizes, most, steps
            ):
                continue
            if not done:
                first = row * half * pair
                second = first + half * pair if row + 1 < rows else first
                for j in range(half):
                    here, there = j * pair, (length - j if j else 0) * pair
                    a, b = load(element, spectra, first + here), load(element, spectra, first + here + lanes)
                    c, d = load(element, spectra, second + here), load(element, spectra, second + here + lanes)
                    store(a + d, buffer, there)
                    store(c - b, buffer, there + lanes)
                    store(a - d, buffer, here)
                    store(b + c, buffer, here + lanes)
                transform(element, plan, buffer, 0, pair, buffer, 0, pair, lanes, scratch)
                done = True
            if interleaved:
                for j in range(places[2, 0]):
                    store_first(load(element, buffer, j * pair + part * lanes), y, places[0, 0] + j * step, number)
            else:
                lanes_to_rows(element, buffer, part * lanes, pair, most[-1], y, places)


@kept(nogil=True)
def _lines(element, spectra, at, lengths, axis, plan, turn, scratch):
    """Transform along an axis that is not the last, forwards, or backwards where ``turn`` is a vector's length."""
    length = plan[0]
    if length == 1:
        return
    outer, inner = 1, (lengths[-1] // 2 + 1) * 2 * lanes_of(element)
    for before in range(axis):
        outer *= lengths[before]
    for after in range(axis + 1, len(lengths) - 1):
        inner *= lengths[after]
    for i in range(outer):
        for j in range(0, inner, 2 * lanes_of(element)):
            base = at + i * length * inner + j
            transform(element, plan, spectra, base, inner, spectra, base, inner, turn, scratch)


@kept(nogil=True)
def _multiply(element, wide, x, x_base, x_step, w, w_base, w_step, y, y_base, y_step, number, more):
    """``y`` is or grows by ``x`` times ``w``, complex numbers a step apart: ``w`` has vectors, or numbers for all lanes."""
    lanes = lanes_of(element)
    for i in range(number):
        here, there, end = x_base + i * x_step, w_base + i * w_step, y_base + i * y_step
        a, b = load(element, x, here), load(element, x, here + lanes)
        if wide:
            c, d = load(element, w, there), load(element, w, there + lanes)
        else:
            c, d = splat(element, w, there), splat(element, w, there + 1)
        re, im = a * c - b * d, a * d + b * c
        if more:
            re, im = re + load(element, y, end), im + load(element, y, end + lanes)
        store(re, y, end)
        store(im, y, end + lanes)


@kept(nogil=True)
def _filtered(
    element, wide, channels, filters, k, lengths, plan, spectra, size, w, w_lines, w_channel, w_step, result, line, sums,
    scratch,
):  # fmt: skip
    """Along the first axis: transform every channel, unless there are several filters, multiply, sum and transform back."""
    pair, inner = 2 * lanes_of(element), size // lengths[0]
    length = plan[0]
    for j in range(w_lines.size):
        base = j * pair
        for c in range(channels):
            x, start, step = spectra, c * size + base, inner
            if length > 1 and filters == 1:
                transform(element, plan, spectra, start, inner, line, 0, pair, 0, scratch)
                x, start, step = line, 0, pair
            there, more = w_lines[j] + (k * channels + c) * w_channel, c > 0
            if length > 1:
                _multiply(element, wide, x, start, step, w, there, w_step, sums, 0, pair, length, more)
            else:
                _multiply(element, wide, x, start, step, w, there, 0, result, base, inner, lengths[0], more)
        if length > 1:
            transform(element, plan, sums, 0, pair, result, base, inner, lanes_of(element), scratch)


@kept(nogil=True)
def _room(element, lengths):
    """Elements of the longest line of a block, and of its spectra."""
    longest, size = 0, (lengths[-1] // 2 + 1) * 2 * lanes_of(element)
    for axis in range(len(lengths)):
        longest = max(longest, lengths[axis])
        if axis < len(lengths) - 1:
            size *= lengths[axis]
    return (longest + lanes_of(element)) * 2 * lanes_of(element), size


@shared
def _convolve(
    member, begin, end, element, wide, interleaved, images, groups, channels, filters, lengths, plans, firsts, lows,
    x, x_sizes, x_steps, w, w_lines, w_block, w_channel, w_step, y, y_sizes, most, y_steps, spectra, result, work,
):  # fmt: skip
    """Convolve all blocks of ``images``, in lanes of ``groups`` where it is ``wide``, else of blocks.

    ``lengths`` are a block's along every axis, ``most`` how many of its results count, and a row of ``plans`` is, for
    an axis, what ``transform`` is told. ``firsts``, ``(blocks, axes)``,
    says which result is the first of each, and lies ``lows`` further on than its first pixel. ``x_steps`` and
    ``y_steps`` are those from an image, a group, a channel (or filter), and a place along each axis to the next.
    ``w_lines`` says where the kernel's frequencies lie that a line along the first axis meets, ``w_step`` apart;
    kernels of channels are ``w_channel`` apart, those of a group, or of lanes of them, ``w_block``. ``spectra`` and
    ``result`` are workspace, and ``work`` more of it: room for four lines, the bytes of an element, and a table of
    ``(5 + 2 * axes, lanes)`` integers; every member has its own, one after another. A unit is as many blocks as there
    are lanes.
    """
    lanes, axes, number = lanes_of(element), len(lengths), len(firsts)
    room, size = _room(element, lengths)
    address, item, tables = work
    room *= item
    own = member * (channels + (1 if filters > 1 else 0)) * size * item
    spectra, result, places = spectra + own, result + own, tables[member]
    buffer = address + member * 4 * room
    scratch, line, sums = buffer + room, buffer + 2 * room, buffer + 3 * room
    inside = groups if wide else images * number
    for unit in range(begin, end):
        other, first = divmod(unit, -(-inside // lanes))
        first *= lanes
        some = min(lanes, inside - first)
        for lane in range(some):
            block, group = (other, first + lane) if wide else (first + lane, other)
            image, block = divmod(block, number)
            places[3, lane] = image * x_steps[0] + group * x_steps[1]
            places[4, lane] = image * y_steps[0] + group * y_steps[1]
            for axis in range(axes):
                corner = firsts[block, axis]
                places[5 + axis, lane] = corner - lows[axis]
                places[5 + axes + axis, lane] = corner
                places[3, lane] += (corner - lows[axis]) * x_steps[3 + axis]
                places[4, lane] += corner * y_steps[3 + axis]
        kernels = w_block * (first // lanes if wide else other)
        for c in range(channels):
            _rows_forward(
                element, x, x_steps[-1], interleaved[0], places, some, 3, 5, c * x_steps[2], lengths, x_sizes,
                x_steps[3:], plans[axes - 1], spectra, c * size, buffer, scratch,
            )  # fmt: skip
            for axis in range(axes - 2, 0 if filters == 1 else -1, -1):
                _lines(element, spectra, c * size, lengths, axis, plans[axis], int64(0), scratch)
        for k in range(filters):
            _filtered(
                element, wide, channels, filters, k, lengths, plans[0], spectra, size, w, w_lines + kernels,
                w_channel, w_step, result, line, sums, scratch,
            )  # fmt: skip
            for axis in range(1, axes - 1):
                _lines(element, result, int64(0), lengths, axis, plans[axis], lanes, scratch)
            _rows_backward(
                element, y, y_steps[-1], interleaved[1], places, some, 4, 5 + axes, k * y_steps[2], lengths, y_sizes,
                most, y_steps[3:], plans[axes - 1], result, buffer, scratch,
            )  # fmt: skip


@kept(nogil=True)
def convolve(workers, units, *args):
    """Run :func:`_convolve`."""
    share(_convolve(args), workers, units)


@kept(nogil=True)
def kernel(element, interleaved, kernels, lengths, plans, w, w_sizes, w_steps, spectra, work):
    """Transform ``kernels``, as many at a time as a vector has lanes, and twice too large, to blocks of spectra."""
    lanes, axes = lanes_of(element), len(lengths)
    room, size = _room(element, lengths)
    buffer, item, tables = work
    scratch, places = buffer + room * item, tables[0]
    places[:] = 0
    for first in range(0, kernels, lanes):
        some = min(lanes, kernels - first)
        for lane in range(some):
            places[3, lane] = (first + lane) * w_steps[0]
        _rows_forward(
            element, w, w_steps[-1], interleaved, places, some, 3, 5, int64(0), lengths, w_sizes, w_steps[1:],
            plans[axes - 1], spectra, first // lanes * size, buffer, scratch,
        )  # fmt: skip
        for axis in range(axes - 2, -1, -1):
            _lines(element, spectra, first // lanes * size, lengths, axis, plans[axis], int64(0), scratch)
