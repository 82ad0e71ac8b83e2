"""Direct convolution as compiled loops around the micro-kernel.

Which axis its vectors run along decides everything else: over filters where channels are innermost in memory, over
positions where space is, over channels where each has filters of its own. Arrays come flat; offsets are in elements.
Long sums are taken ``depth`` taps at a time, whose part of the kernel stays in a near cache.

A result that outgrows the caches is stored ``past`` them, if that is not empty: where all its vectors are whole lines
of a cache, and none is added to.

Threads share them: what comes with ``workers``, ``units`` and the arguments of the function above it runs that over all
of its units, in parts. ``member`` is who runs a part, from the unit ``begin`` to before ``end``.
"""

from __future__ import annotations

from numba import njit

from .kept import kept
from .microkernel import copy, multiply, slide
from .team import announce, share, shared
from .vectors import lanes_of, turn

__all__ = ["add", "interleave", "over_filters", "over_lines", "over_panels", "over_positions", "sums_over_positions"]


@shared
def _over_filters(member, begin, end, element, code, depth, x, w, y, strips, filters, groups, ahead):
    """Vectors of filters: a block is some positions by as many filters as a panel. A unit is a strip of them, in a group.

    ``code`` is the ``rows`` and ``vectors`` of a block, and ``past``. ``x`` is an address, where the windows of a strip's
    positions begin, what a window holds, and how far groups are apart. ``w`` is the address of ``(groups, panels of
    filters, taps, width)``, which of a panel's taps are taken, its elements and its ``width``. ``y`` is an address, and
    where a strip's results are. ``strips`` is how far apart images are in ``x`` and ``y``, how many positions each has,
    and how far apart in ``x`` and ``y`` its strips are. ``ahead`` is what :func:`multiply` takes for what comes ``soon``:
    a tuple of as many as ``rows``, if the next block's pixels lie side by side and are to be fetched, or of nothing; the
    same of a block's share of what the kernel has for a tap; and that share.
    """
    rows, vectors, past = code
    (_, x_starts, x_taps, x_group), (w, w_taps, w_panel, width) = x, w
    x_ahead, w_ahead, w_move = ahead
    taps, strip = x_taps.size, x_starts.size
    x_image, y_image, positions, x_strip, y_strip = strips
    code, pixels, kernel = (rows, vectors, (0,), (0,), past), x[:3], (w, w_taps)
    for unit in range(begin, end):
        place, group = divmod(unit, groups)
        image, number = divmod(place, -(-positions // strip))
        x_base = image * x_image + number * x_strip + group * x_group
        y_base = image * y_image + number * y_strip + group * filters
        some = min(strip, positions - number * strip)
        panels = -(-filters // width)
        for t in range(0, taps, depth):
            for k in range(panels):
                panel = (group * panels + k) * w_panel
                w_soon = panel + w_panel + t * width
                for p in range(0, some, len(rows)):
                    x_soon = x_base + x_starts[min(p + len(rows), some - 1)] + t * len(rows)
                    multiply(
                        element, code, pixels, kernel, y, (x_base, panel, y_base + k * width),
                        p, min(len(rows), some - p), min(width, filters - k * width), t, min(t + depth, taps), t > 0,
                        (x_soon, x_ahead, w_soon, w_ahead),
                    )  # fmt: skip
                    w_soon += depth * w_move


@kept(nogil=True)
def over_filters(workers, units, *args):
    """Run :func:`_over_filters`."""
    share(_over_filters(args), workers, units)


@njit(nogil=True, forceinline=True)  # to call it with so much would take longer than many a run
def _run(element, code, x, w, y, places, begin, end, outputs, taps, panels, first_panel, last_panel, line, frame):
    """A run of ``outputs``, in blocks of as many as ``rows`` has; by themselves, if they are fewer, as if at an edge."""
    high, rows, tall, several, down, step, wide_x, wide_w, past = code
    alone = high, (0,), tall, several, down, step, wide_x, wide_w, past
    x_row, y_row, (width, height, stride, dilation) = x[2], y[2], frame
    for p in range(0, outputs, len(rows)):
        first = max(0, min(p, outputs - len(rows)))  # the last block lies over the one before
        above = line + first * stride
        outside = above < 0 or above + (len(rows) - 1) * stride + (taps - 1) * dilation >= height
        for panel in range(first_panel, last_panel):
            column, lanes = panels[panel, 0], panels[panel, 3]
            x_place = places[0] + column + first * x_row
            w_place = places[1] + panels[panel, 2]
            y_place = places[2] + panels[panel, 1] + first * y_row
            if outputs >= len(rows):
                edge = outside or panels[panel, 4] > 0
                slide(
                    element, code, x, w, y, (x_place, w_place, y_place), lanes, begin, end, taps,
                    (column, width, above, stride, dilation, height, edge),
                )  # fmt: skip
                continue
            for m in range(outputs):
                slide(
                    element, alone, x, w, y, (x_place + m * x_row, w_place, y_place + m * y_row), lanes, begin, end, taps,
                    (column, width, above + m * stride, stride, dilation, height, True),
                )  # fmt: skip


@shared
def _over_lines(member, begin, end, element, code, x, w, y, outer, along, panels, stretch, images, planes, frame):
    """Kernels that slide along an axis, or two: ``rows`` neighbouring outputs, of ``high`` lines, by a vector.

    ``code``, ``x``, ``w`` and ``y`` are what :func:`slide` takes. ``outer`` has a row for each place on the other axes:
    where it lies in ``x`` and ``y``, the first and last of its lines of taps, and whether it has as many lines of
    outputs as ``high`` has, whose lines of taps are ``tall`` ones; if not, it has one. ``along`` has one for every run
    of outputs that see the same taps of a line: where it lies in ``x`` and ``y``, how many outputs there are, where its
    taps lie in ``w``, how many those are, and on which line of a plane the first is. ``panels`` has one for every
    vector of a place: where that lies in ``x``, ``y`` and ``w``, how many lanes it has, and whether it sees what lies
    beside a plane; ``stretch`` of them are taken through an image at a time. ``planes`` is how many there are, and how
    far apart in ``x``, ``y`` and ``w``, ``images`` how far apart in ``x`` and ``y``. ``frame`` is how many columns and
    lines a plane has, and how many lines on those of an output and of a tap are from those before; of nothing but
    planes it is looked at. A unit is a run.
    """
    x_image, y_image = images
    some, x_plane, y_plane, w_plane = planes
    high, rows, _, several, _, step, wide_x, wide_w, past = code
    single = (0,), rows, (0,), several, (), step, wide_x, wide_w, past  # of one line
    for unit in range(begin, end):
        rest, run = divmod(unit, along.shape[0])
        rest, place = divmod(rest, outer.shape[0])
        rest, turn = divmod(rest, -(-panels.shape[0] // stretch))
        image, plane = divmod(rest, some)
        bases = (
            image * x_image + plane * x_plane + outer[place, 0] + along[run, 0],
            plane * w_plane + along[run, 3],
            image * y_image + plane * y_plane + outer[place, 1] + along[run, 1],
        )
        first, last = turn * stretch, min((turn + 1) * stretch, panels.shape[0])
        begun, ended = outer[place, 2], outer[place, 3]
        outputs, taps, line = along[run, 2], along[run, 4], along[run, 5]
        if len(high) > 1 and outer[place, 4]:
            _run(element, code, x, w, y, bases, begun, ended, outputs, taps, panels, first, last, line, frame)
        else:
            _run(element, single, x, w, y, bases, begun, ended, outputs, taps, panels, first, last, line, frame)


@kept(nogil=True)
def over_lines(workers, units, *args):
    """Run :func:`_over_lines`."""
    share(_over_lines(args), workers, units)


@shared
def _over_positions(member, begin, end, element, code, depth, x, w, y, lines, stretches, frame, extent, width, groups):
    """Vectors of positions that follow each other: a block is some filters by ``width`` of a row.

    A unit is a row, in a group.

    ``code`` is the ``rows`` and ``vectors`` of a block, ``past``, and a tuple as long as pixels of neighbouring outputs
    are ``apart``. ``x`` is an address, how far apart images and groups are, where taps lie, and in which columns those of
    a row's first output do; ``y`` an address, the same distances, and where each filter's outputs begin; ``w`` the
    address of ``(groups, panels of filters, taps, rows of a block)``. ``lines`` has a row for every row of ``extent``
    outputs: where it begins in ``x`` and ``y``, and the first and last of its ``stretches`` of taps, those that meet
    the image along the other axes: of a stretch, its first and its last. ``frame`` is how many columns an image has, and
    those furthest to the left and to the right of a row's first output.
    """
    rows, vectors, past, apart = code
    (x, x_image, x_group, x_taps, columns), (w,), (y, y_image, y_group, y_filters) = x, w, y
    x_width, left, right = frame
    filters, taps, step = y_filters.size, x_taps.size, len(apart)
    w_group = -(-filters // len(rows)) * len(rows) * taps
    code, kernel = (rows, vectors, (0,), apart, past), (w, 1, len(rows))
    pixels, result = (x, x_taps, columns), (y, y_filters)
    for unit in range(begin, end):
        place, group = divmod(unit, groups)
        image, row = divmod(place, lines.shape[0])
        x_base = image * x_image + group * x_group + lines[row, 0]
        y_base = image * y_image + group * y_group + lines[row, 1]
        next_row = lines[min(row + 1, lines.shape[0] - 1), 0] - lines[row, 0]
        for after in range(0, extent, width):
            j = after
            if len(past) == 0:  # whose vectors may begin anywhere: the last block lies over the one before
                j = max(0, min(after, extent - width))
            column = j * step
            edge = column + left < 0 or column + right + (width - 1) * step >= x_width
            for stretch in range(lines[row, 2], lines[row, 3]):
                first, last = stretches[stretch, 0], stretches[stretch, 1]
                for t in range(first, max(last, first + 1), depth):
                    more = t > first or stretch > lines[row, 2]
                    for k in range(0, filters, len(rows)):
                        places = group * w_group + k * (taps - 1), x_base + column, y_base + j
                        multiply(
                            element, code, kernel, pixels, result, places, k, min(len(rows), filters - k),
                            min(width, extent - j), t, min(t + depth, last), more, None, (column, x_width, edge, next_row),
                        )  # fmt: skip


@kept(nogil=True)
def over_positions(workers, units, *args):
    """Run :func:`_over_positions`."""
    share(_over_positions(args), workers, units)


@shared
def _over_panels(member, begin, end, element, code, depth, x, w, y, extent, width, groups, room):
    """Vectors of any positions, whose windows are unrolled first: a panel holds ``width`` of them, tap by tap.

    A unit is a panel, in a group; ``room`` is the address of ``(members, depth, width)``, one for every thread. ``x`` is
    an address, how far apart images and groups are, where taps lie, and where each row of ``extent`` outputs begins,
    which follow each other in the image, ``apart``, as all outputs do in the result; the others are as in
    :func:`_over_positions`.
    """
    rows, vectors, past, apart = code
    (x, x_image, x_group, x_taps, x_rows), (w,), (y, y_image, y_group, y_filters) = x, w, y
    filters, positions, taps = y_filters.size, x_rows.size * extent, x_taps.size
    w_group = -(-filters // len(rows)) * len(rows) * taps
    own = member * depth * width
    code, kernel = (rows, vectors, (0,), (0,), past), (w, 1, len(rows))
    unrolled, result = (room, width), (y, y_filters)
    for unit in range(begin, end):
        place, group = divmod(unit, groups)
        image, which = divmod(place, -(-positions // width))
        base = image * x_image + group * x_group
        p = which * width
        number = min(width, positions - p)
        for t in range(0, taps, depth):
            last = min(t + depth, taps)
            done = 0
            while done < number:  # row by row
                row, column = divmod(p + done, extent)
                run = min(number - done, extent - column)
                for tap in range(t, last):
                    start = base + x_rows[row] + column * len(apart) + x_taps[tap]
                    copy(element, x, start, room, own + (tap - t) * width + done, run, apart)
                done += run
            for k in range(0, filters, len(rows)):
                places = group * w_group + k * (taps - 1), own - t * width, image * y_image + group * y_group + p
                multiply(
                    element, code, kernel, unrolled, result, places,
                    k, min(len(rows), filters - k), number, t, last, t > 0,
                )  # fmt: skip


@kept(nogil=True)
def over_panels(workers, units, *args):
    """Run :func:`_over_panels`."""
    share(_over_panels(args), workers, units)


@kept(nogil=True)
def sums_over_positions(
    element, rows, vectors, scalars, x, dy, dw, x_rows, dw_rows, x_steps, dy_steps, stretches, regions, groups, x_channel,
    dw_channel, extent, width,
):  # fmt: skip
    """Add to ``dw`` the products of pixels and of the gradients of the outputs that see them, of all positions.

    Vectors hold filters or, without ``scalars``, channels that have one filter each; ``extent`` is how many there are.
    ``regions`` has a row for outputs that see the same taps, of some channels: where they begin in ``x``, ``dy`` and
    ``dw``, how many channels there are and how many are taken through all positions at a time; then the first and last
    of its own among the entries of the tables, which are one after another. ``stretches`` has a row for every stretch
    of positions: where it begins in ``x`` and ``dy``, and how many it has, of which ``x_steps`` and ``dy_steps`` say
    where they lie. ``x_rows`` and ``dw_rows`` say where every tap of every channel lies, in the window of the first
    output and in ``dw``. ``groups`` is how many there are, and how far apart in ``x``, ``dy`` and ``dw``.
    """
    announce()
    number, x_group, dy_group, dw_group = groups
    for region in range(regions.shape[0]):
        x_first, dy_first, dw_first, channels, strip, row, last_row, step, last_step, begin, end = regions[region]
        x_high, dw_high = x_rows[row:last_row], dw_rows[row:last_row]
        x_long, dy_long = x_steps[step:last_step], dy_steps[step:last_step]
        code = rows, vectors, scalars, (0,), ()
        for group in range(number):
            for c in range(0, channels, strip):
                for stretch in range(begin, end):
                    x_base = x_first + group * x_group + c * x_channel + stretches[stretch, 0]
                    dy_base = dy_first + group * dy_group + stretches[stretch, 1]
                    dw_base = dw_first + group * dw_group + c * dw_channel
                    for k in range(0, extent, width):
                        x_place = x_base if len(scalars) else x_base + k
                        for m in range(0, x_high.size, len(rows)):
                            multiply(
                                element, code, (x, x_high, x_long), (dy, dy_long), (dw, dw_high),
                                (x_place, dy_base + k, dw_base + k), m, min(len(rows), x_high.size - m),
                                min(width, extent - k), 0, stretches[stretch, 2], True,
                            )  # fmt: skip


@kept(nogil=True)
def interleave(element, x, x_strides, y, y_strides, shape, back):
    """Copy ``(N, G, C, *size)`` from memory with space innermost to memory with channels so, or ``back``.

    Strides of what is innermost are not looked at, they are one.
    """
    announce()
    axes, lanes, others = len(shape), lanes_of(element), 1
    for axis in range(axes - 1):
        others *= shape[axis] if axis != 2 else 1
    rows, columns, x_row, y_row = shape[2], shape[axes - 1], x_strides[2], y_strides[axes - 1]
    if back:
        rows, columns, x_row, y_row = columns, rows, x_strides[axes - 1], y_strides[2]
    for other in range(others):
        source, target, rest = 0, 0, other
        for axis in range(axes - 2, -1, -1):
            if axis != 2:
                source += rest % shape[axis] * x_strides[axis]
                target += rest % shape[axis] * y_strides[axis]
                rest //= shape[axis]
        for column in range(0, columns, lanes):
            for row in range(0, rows, lanes):
                turn(
                    element, x, source + row * x_row + column, x_row, y, target + column * y_row + row, y_row,
                    rows - row, columns - column,
                )  # fmt: skip


@shared
def _add(member, begin, end, rows, bias, every):
    """Add to each row one number of ``bias`` after another, or to ``every`` row all of them. A unit is a row."""
    for unit in range(begin, end):
        row, number = rows[unit], bias[unit % bias.size]
        for i in range(row.size):
            row[i] += bias[i] if every else number


@kept(nogil=True)
def add(workers, units, *args):
    """Run :func:`_add`."""
    share(_add(args), workers, units)
