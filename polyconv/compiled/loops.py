"""Direct convolution as compiled loops around the micro-kernel.

Which axis its vectors run along decides everything else: over filters where channels are innermost in memory, over
positions where space is, over channels where each has filters of its own. Arrays come flat; offsets are in elements.
Long sums are taken ``depth`` taps at a time, whose part of the kernel stays in a near cache.
"""

from __future__ import annotations

from numba import njit

from .microkernel import copy, gather, multiply, multiply_channels, multiply_scaled

__all__ = ["interleave", "over_channels", "over_filters", "over_panels", "over_planes", "over_positions"]


@njit(nogil=True, cache=True)
def over_filters(
    element, rows, vectors, x, w, y, depth, x_starts, x_taps, x_group, y_starts, strips, w_taps, w_panel, width, filters,
    groups,
):  # fmt: skip
    """Vectors of filters: a block is some positions by ``width`` filters.

    ``x_starts`` and ``y_starts`` say where the windows and results of a strip's positions begin, ``x_taps`` what a
    window holds. ``strips`` is how many images there are, how far apart in ``x`` and ``y``, how many positions each
    has, and how far apart in ``x`` and ``y`` its strips are. ``w`` is ``(groups, panels of filters, taps, width)``, of
    ``w_panel`` elements each, of whose taps ``w_taps`` are taken.
    """
    taps, strip = x_taps.size, x_starts.size
    images, x_image, y_image, positions, x_strip, y_strip = strips
    for image in range(images):
        for start in range(0, positions, strip):
            x_base = image * x_image + start // strip * x_strip
            y_base = image * y_image + start // strip * y_strip
            number, panel = min(strip, positions - start), 0
            for group in range(groups):
                for k in range(0, filters, width):
                    for t in range(0, taps, depth):
                        for p in range(0, number, len(rows)):
                            multiply(
                                element, rows, vectors, x, x_base + group * x_group, x_starts, x_taps, w, panel, w_taps,
                                y, y_base + group * filters + k, y_starts,
                                p, min(len(rows), number - p), min(width, filters - k), t, min(t + depth, taps),
                            )  # fmt: skip
                    panel += w_panel


@njit(nogil=True, cache=True)
def over_channels(element, rows, vectors, x, w, y, x_starts, x_taps, y_starts, strips, w_taps, width, channels):
    """Vectors of channels, each with a filter of its own: a block is some positions by ``width`` channels.

    The tables and ``strips`` are those of :func:`over_filters`, but for channels; ``w`` is ``(taps, channels)``.
    """
    taps, strip = x_taps.size, x_starts.size
    images, x_image, y_image, positions, x_strip, y_strip = strips
    for image in range(images):
        for start in range(0, positions, strip):
            x_base = image * x_image + start // strip * x_strip
            y_base = image * y_image + start // strip * y_strip
            number = min(strip, positions - start)
            for p in range(0, number, len(rows)):
                for c in range(0, channels, width):
                    multiply_channels(
                        element, rows, vectors, x, x_base + c, x_starts, x_taps, w, c, w_taps, y, y_base + c, y_starts,
                        p, min(len(rows), number - p), min(width, channels - c), 0, taps,
                    )  # fmt: skip


@njit(nogil=True, cache=True)
def over_planes(
    element, rows, vectors, x, w, y, x_rows, x_taps, x_image, x_group, y_rows, y_image, y_group, extent, width, images,
    groups,
):  # fmt: skip
    """Vectors of positions, where each plane has one filter of its own: a block is some rows by ``width`` positions.

    ``x_rows`` and ``y_rows`` say where in its plane each row of ``extent`` outputs begins; ``w`` is ``(groups, taps)``.
    """
    taps, number = x_taps.size, x_rows.size
    for image in range(images):
        for group in range(groups):
            x_base, y_base = image * x_image + group * x_group, image * y_image + group * y_group
            for j in range(0, extent, width):
                for row in range(0, number, len(rows)):
                    multiply_scaled(
                        element, rows, vectors, x, x_base + j, x_rows, x_taps, w, group * taps, 1,
                        y, y_base + j, y_rows, row, min(len(rows), number - row), min(width, extent - j), 0, taps,
                    )  # fmt: skip


@njit(nogil=True, cache=True)
def over_positions(
    element, rows, vectors, x, w, y, depth, x_rows, x_taps, x_image, x_group, y_rows, y_filters, y_image, y_group,
    extent, width, images, groups,
):  # fmt: skip
    """Vectors of positions that follow each other in the image: a block is some filters by ``width`` positions.

    ``x_rows`` and ``y_rows`` say where each row of ``extent`` outputs begins, ``y_filters`` where each filter's do;
    ``w`` is ``(groups, panels of filters, taps, rows of a block)``.
    """
    filters, taps = y_filters.size, x_taps.size
    w_group = -(-filters // len(rows)) * len(rows) * taps
    for image in range(images):
        for row in range(x_rows.size):
            for group in range(groups):
                x_base = image * x_image + group * x_group + x_rows[row]
                y_base = image * y_image + group * y_group + y_rows[row]
                for j in range(0, extent, width):
                    for t in range(0, taps, depth):
                        for k in range(0, filters, len(rows)):
                            multiply(
                                element, rows, vectors, w, group * w_group + k * (taps - 1), 1, len(rows),
                                x, x_base + j, x_taps, y, y_base + j, y_filters,
                                k, min(len(rows), filters - k), min(width, extent - j), t, min(t + depth, taps),
                            )  # fmt: skip


@njit(nogil=True, cache=True)
def over_panels(
    element, rows, vectors, x, w, y, panel, depth, x_rows, x_taps, x_image, x_group, y_filters, y_image, y_group,
    extent, width, images, groups,
):  # fmt: skip
    """Vectors of any positions, whose windows are unrolled first: ``panel`` holds ``width`` of them, tap by tap.

    ``x_rows`` says where each row of ``extent`` outputs begins, which follow each other in the image, as all outputs
    do in the result; ``w`` is as in :func:`over_positions`.
    """
    filters, positions, taps = y_filters.size, x_rows.size * extent, x_taps.size
    w_group = -(-filters // len(rows)) * len(rows) * taps
    for image in range(images):
        for group in range(groups):
            base = image * x_image + group * x_group
            for p in range(0, positions, width):
                number = min(width, positions - p)
                for t in range(0, taps, depth):
                    end = min(t + depth, taps)
                    done = 0
                    while done < number:  # row by row
                        row, column = divmod(p + done, extent)
                        run = min(number - done, extent - column)
                        for tap in range(t, end):
                            start = base + x_rows[row] + column + x_taps[tap]
                            copy(element, x, start, panel, (tap - t) * width + done, run)
                        done += run
                    for k in range(0, filters, len(rows)):
                        multiply(
                            element, rows, vectors, w, group * w_group + k * (taps - 1), 1, len(rows),
                            panel, -t * width, width, y, image * y_image + group * y_group + p, y_filters,
                            k, min(len(rows), filters - k), number, t, end,
                        )  # fmt: skip


@njit(nogil=True, cache=True)
def interleave(element, x, x_strides, y, y_strides, shape):
    """Copy ``(N, G, C, *size)`` to where another axis, channels or the last of space, is innermost in memory."""
    channels, last = shape[2], shape[-1]
    x_channel, x_pixel, y_channel, y_pixel = x_strides[2], x_strides[-1], y_strides[2], y_strides[-1]
    rows = 1
    for axis in range(3, len(shape) - 1):
        rows *= shape[axis]
    for image in range(shape[0]):
        for group in range(shape[1]):
            for row in range(rows):
                source = image * x_strides[0] + group * x_strides[1]
                target = image * y_strides[0] + group * y_strides[1]
                rest = row
                for axis in range(len(shape) - 2, 2, -1):
                    source += rest % shape[axis] * x_strides[axis]
                    target += rest % shape[axis] * y_strides[axis]
                    rest //= shape[axis]
                if y_channel == 1:
                    for p in range(last):
                        gather(element, x, source + p * x_pixel, x_channel, y, target + p * y_pixel, channels)
                else:
                    for c in range(channels):
                        gather(element, x, source + c * x_channel, x_pixel, y, target + c * y_channel, last)
