"""Overlap-save block by block: gathered, transformed, multiplied and transformed back while they are in cache.

Vectors hold as many blocks as they have lanes, of one image, of several, or of channels that have kernels of their own.
A block is transformed row by row, two real rows as the real and imaginary parts of one; then along every other axis,
half of the frequencies alone, the other half being their conjugates. Offsets are in elements, arrays are addresses.

Blocks in lanes: ``spectra`` is ``(channels, rows, frequencies, 2, lanes)``, where ``rows`` are those of all axes but
the last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .butterflies import ZERO, transform
from .vectors import lanes_of, lanes_to_rows, load, load_first, rows_to_lanes, splat, store, store_first, zero
from .waiting import announce

__all__ = ["convolve", "kernel"]


@njit(nogil=True, cache=True)
def _bounds(bounds, number, bases, corners, row, start, lengths, sizes, most, steps):
    """Where a row of every block lies, and which of its elements are there: ``(3, lanes)``, see ``rows_to_lanes``.

    A block of ``lengths`` begins at its ``corners`` in an array of ``sizes``, and has ``most`` elements that count.
    Says whether there are any.
    """
    last, somewhere = len(lengths) - 1, False
    bounds[1:] = 0
    for lane in range(number):
        bounds[0, lane] = bases[lane] + start
        bounds[1, lane] = max(0, -corners[lane, last])
        bounds[2, lane] = max(0, min(most[last], sizes[last] - corners[lane, last]))
    for axis in range(last - 1, -1, -1):
        rest = row // lengths[axis]
        i = row - rest * lengths[axis]
        row = rest
        if i >= most[axis]:
            return False
        for lane in range(number):
            bounds[0, lane] += i * steps[axis]
            if not 0 <= corners[lane, axis] + i < sizes[axis]:
                bounds[2, lane] = 0
    for lane in range(number):
        somewhere = somewhere or bounds[2, lane] > bounds[1, lane]
    return somewhere


@njit(nogil=True, cache=True)
def _gather(element, x, step, interleaved, bounds, number, length, target, begin):
    """A row of every block: element ``j`` goes to ``begin + 2 * j * lanes``, zeros where there is none."""
    lanes = lanes_of(element)
    if not interleaved:
        rows_to_lanes(element, x, bounds, length, target, begin, 2 * lanes)
        return
    first, low, high = bounds[0, 0], bounds[1, 0], bounds[2, 0]
    for j in range(low):
        store(zero(element), target, begin + 2 * j * lanes)
    for j in range(low, high):
        store(load_first(element, x, first + j * step, number), target, begin + 2 * j * lanes)
    for j in range(high, length):
        store(zero(element), target, begin + 2 * j * lanes)


@njit(nogil=True, cache=True)
def _rows_forward(
    element, x, step, interleaved, number, bases, corners, start, lengths, sizes, steps, plan, spectra, at, bounds,
    buffer, scratch,
):  # fmt: skip
    """Gather and transform all rows of blocks, two at a time, into ``spectra`` from ``at`` on; twice too large."""
    lanes, length = lanes_of(element), lengths[-1]
    half, rows, pair = length // 2 + 1, 1, 2 * lanes
    for axis in range(len(lengths) - 1):
        rows *= lengths[axis]
    r, s, twiddles = plan[1], plan[2], plan[3]
    for row in range(0, rows, 2):
        somewhere = False
        for part in range(2):
            there = row + part < rows and _bounds(
                bounds, 1 if interleaved else number, bases, corners, row + part, start, lengths, sizes, lengths, steps
            )
            somewhere = somewhere or there
            if there:
                _gather(element, x, step, interleaved, bounds, number, length, buffer, part * lanes)
            else:
                for j in range(length):
                    store(zero(element), buffer, j * pair + part * lanes)
        first = at + row * half * pair
        second = first + half * pair
        if not somewhere:
            for j in range(first, first + min(2, rows - row) * half * pair, lanes):
                store(zero(element), spectra, j)
            continue
        transform(element, r, s, twiddles, buffer, ZERO, pair, buffer, ZERO, pair, ZERO, scratch)
        for j in range(half):
            here, there = j * pair, (length - j if j else 0) * pair
            a, b = load(element, buffer, here), load(element, buffer, here + lanes)
            c, d = load(element, buffer, there), load(element, buffer, there + lanes)
            store(a + c, spectra, first + here)
            store(b - d, spectra, first + here + lanes)
            if row + 1 < rows:
                store(b + d, spectra, second + here)
                store(c - a, spectra, second + here + lanes)


@njit(nogil=True, cache=True)
def _rows_backward(
    element, y, step, interleaved, number, bases, corners, start, lengths, sizes, most, steps, plan, spectra, bounds,
    buffer, scratch,
):  # fmt: skip
    """Transform those rows of blocks back that hold results, two at a time, and put these in place."""
    lanes, length = lanes_of(element), lengths[-1]
    half, rows, pair = length // 2 + 1, 1, 2 * lanes
    for axis in range(len(lengths) - 1):
        rows *= lengths[axis]
    r, s, twiddles = plan[1], plan[2], plan[3]
    for row in range(0, rows, 2):
        done = False
        for part in range(min(2, rows - row)):
            if not _bounds(bounds, 1 if interleaved else number, bases, corners, row + part, start, lengths, sizes, most, steps):
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
                transform(element, r, s, twiddles, buffer, ZERO, pair, buffer, ZERO, pair, lanes, scratch)
                done = True
            if interleaved:
                for j in range(bounds[2, 0]):
                    store_first(
                        load(element, buffer, j * pair + part * lanes), y, bounds[0, 0] + j * step, number
                    )
            else:
                lanes_to_rows(element, buffer, part * lanes, pair, most[-1], y, bounds)


@njit(nogil=True, cache=True)
def _lines(element, spectra, at, lengths, axis, plan, turn, scratch):
    """Transform along an axis that is not the last, forwards, or backwards where ``turn`` is a vector's length."""
    length, r, s, twiddles = plan[0], plan[1], plan[2], plan[3]
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
            transform(element, r, s, twiddles, spectra, base, inner, spectra, base, inner, turn, scratch)


@njit(nogil=True, cache=True)
def _multiply(element, wide, x, x_base, x_step, w, w_base, w_step, y, number, more):
    """``y``, complex numbers one after the other, is or grows by ``x`` times ``w``, of vectors or of numbers for all."""
    lanes = lanes_of(element)
    for i in range(number):
        here, there = x_base + i * x_step, w_base + i * w_step
        a, b = load(element, x, here), load(element, x, here + lanes)
        if wide:
            c, d = load(element, w, there), load(element, w, there + lanes)
        else:
            c, d = splat(element, w, there), splat(element, w, there + 1)
        re, im = a * c - b * d, a * d + b * c
        if more:
            re, im = re + load(element, y, 2 * i * lanes), im + load(element, y, (2 * i + 1) * lanes)
        store(re, y, 2 * i * lanes)
        store(im, y, (2 * i + 1) * lanes)


@njit(nogil=True, cache=True)
def _filtered(
    element, wide, channels, filters, k, lengths, plan, spectra, size, w, w_lines, w_channel, w_step, result, line, sums,
    scratch,
):  # fmt: skip
    """Along the first axis: transform every channel, unless there are several filters, multiply, sum and transform back."""
    lanes = lanes_of(element)
    pair = 2 * lanes
    length, r, s, twiddles = plan[0], plan[1], plan[2], plan[3]
    inner = size // lengths[0]
    for j in range(w_lines.size):
        for sub in range(lengths[0] // length):
            base = (sub * inner + j * pair) if length == 1 else j * pair
            for c in range(channels):
                there = w_lines[j] + (k * channels + c) * w_channel
                if filters == 1:
                    transform(element, r, s, twiddles, spectra, c * size + base, inner, line, ZERO, pair, ZERO, scratch)
                    _multiply(element, wide, line, ZERO, pair, w, there, w_step, sums, length, c > 0)
                else:
                    _multiply(element, wide, spectra, c * size + base, inner, w, there, w_step, sums, length, c > 0)
            transform(element, r, s, twiddles, sums, ZERO, pair, result, base, inner, lanes, scratch)


@njit(nogil=True, cache=True)
def convolve(
    element, wide, interleaved, images, groups, channels, filters, lengths, plans, firsts, lows,
    x, x_sizes, x_steps, w, w_lines, w_block, w_channel, w_step, y, y_sizes, most, y_steps, spectra, result, work,
):  # fmt: skip
    """Convolve all blocks of ``images``, in lanes of ``groups`` where it is ``wide``, else of blocks.

    ``lengths`` are a block's along every axis, ``most`` how many of its results count, and a row of ``plans`` is, for
    an axis, the points of its transform, their two factors, and where the twiddles are. ``firsts``, ``(blocks, axes)``,
    says which result is the first of each, and lies ``lows`` further on than its first pixel. ``x_steps`` and
    ``y_steps`` are those from an image, a group, a channel (or filter), and a place along each axis to the next.
    ``w_lines`` says where the kernel's frequencies lie that a line along the first axis meets, ``w_step`` apart;
    kernels of channels are ``w_channel`` apart, those of a group, or of lanes of them, ``w_block``.
    """
    announce()
    lanes, axes, number = lanes_of(element), len(lengths), len(firsts)
    bounds = np.zeros((3, lanes), dtype=np.int64)
    x_bases, y_bases = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.int64)
    x_corners, y_corners = np.zeros((lanes, axes), dtype=np.int64), np.zeros((lanes, axes), dtype=np.int64)
    longest, size = 0, (lengths[-1] // 2 + 1) * 2 * lanes
    for axis in range(axes):
        longest = max(longest, lengths[axis])
        if axis < axes - 1:
            size *= lengths[axis]
    room = (longest + lanes) * 2 * lanes * work[1]
    buffer, scratch, line, sums = work[0], work[0] + room, work[0] + 2 * room, work[0] + 3 * room
    inside, outside = (groups, images * number) if wide else (images * number, groups)
    for other in range(outside):
        for first in range(0, inside, lanes):
            some = min(lanes, inside - first)
            for lane in range(some):
                item, group = (other, first + lane) if wide else (first + lane, other)
                image, block = divmod(item, number)
                x_bases[lane] = image * x_steps[0] + group * x_steps[1]
                y_bases[lane] = image * y_steps[0] + group * y_steps[1]
                for axis in range(axes):
                    x_corners[lane, axis] = firsts[block, axis] - lows[axis]
                    y_corners[lane, axis] = firsts[block, axis]
                    x_bases[lane] += x_corners[lane, axis] * x_steps[3 + axis]
                    y_bases[lane] += y_corners[lane, axis] * y_steps[3 + axis]
            kernels = w_block * (first // lanes if wide else other)
            for c in range(channels):
                _rows_forward(
                    element, x, x_steps[-1], interleaved[0], some, x_bases, x_corners, c * x_steps[2], lengths, x_sizes,
                    x_steps[3:], plans[axes - 1], spectra, c * size, bounds, buffer, scratch,
                )  # fmt: skip
                for axis in range(axes - 2, 0 if filters == 1 else -1, -1):
                    _lines(element, spectra, c * size, lengths, axis, plans[axis], ZERO, scratch)
            for k in range(filters):
                _filtered(
                    element, wide, channels, filters, k, lengths, plans[0], spectra, size, w, w_lines + kernels,
                    w_channel, w_step, result, line, sums, scratch,
                )  # fmt: skip
                for axis in range(1, axes - 1):
                    _lines(element, result, ZERO, lengths, axis, plans[axis], lanes, scratch)
                _rows_backward(
                    element, y, y_steps[-1], interleaved[1], some, y_bases, y_corners, k * y_steps[2], lengths, y_sizes,
                    most, y_steps[3:], plans[axes - 1], result, bounds, buffer, scratch,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def kernel(element, kernels, lengths, plans, w, w_sizes, w_steps, spectra, work):
    """Transform ``kernels``, as many at a time as a vector has lanes, and twice too large, to blocks of spectra."""
    announce()
    lanes, axes = lanes_of(element), len(lengths)
    bounds = np.zeros((3, lanes), dtype=np.int64)
    bases, corners = np.zeros(lanes, dtype=np.int64), np.zeros((lanes, axes), dtype=np.int64)
    longest, size = 0, (lengths[-1] // 2 + 1) * 2 * lanes
    for axis in range(axes):
        longest = max(longest, lengths[axis])
        if axis < axes - 1:
            size *= lengths[axis]
    scratch = work[0] + (longest + lanes) * 2 * lanes * work[1]
    for first in range(0, kernels, lanes):
        some = min(lanes, kernels - first)
        for lane in range(some):
            bases[lane] = (first + lane) * w_steps[0]
        _rows_forward(
            element, w, 1, False, some, bases, corners, ZERO, lengths, w_sizes, w_steps[1:], plans[axes - 1], spectra,
            first // lanes * size, bounds, work[0], scratch,
        )  # fmt: skip
        for axis in range(axes - 2, -1, -1):
            _lines(element, spectra, first // lanes * size, lengths, axis, plans[axis], ZERO, scratch)
