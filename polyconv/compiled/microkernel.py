"""The micro-kernel: a small block of the result stays in registers while all that adds to it streams past.

Every fast product ends in one (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008); Van Zee
& van de Geijn, "BLIS" (2015)). This one finds its operands through tables of offsets, so that the very same loop
multiplies matrices, meets a kernel with an image whose windows are stored nowhere (Dukhan, "The indirect convolution
algorithm", arXiv:1907.02129), and transforms the blocks of Winograd's method.

A compiler left to itself finds no such loop in Python, so it is written in the compiler's own vectors. How many rows
and vectors a block has is told by the types of two tuples; numba compiles one for each such pair when it is first met.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, product
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import INDEX, REGISTERS, VECTOR_BYTES, Vectors

__all__ = ["REGISTERS", "VECTOR_BYTES", "copy", "multiply", "slide", "sweep"]


@intrinsic
def multiply(
    context, element, rows, vectors, scalars, a, a_base, a_rows, a_taps, b, b_base, b_taps, y, y_base, y_rows, first,
    number, lanes, begin, end, more, past=(), a_soon=None, a_move=None, b_soon=None, b_move=None,
    columns=None, column=None, width=None, edge=None,
):  # fmt: skip
    """Sums over taps of numbers of ``a`` times vectors of ``b``, for a block of rows and vectors of ``y``.

    For ``m < number`` and ``i < lanes``, and over ``t`` from ``begin`` to ``end - 1``::

        y[y_base + y_rows[first + m] + i] = sum a[a_base + a_rows[first + m] + a_taps[t]] * b[b_base + b_taps[t] + i]

    or, where there is ``more``, that much more than it was. Without ``scalars``, ``a`` has vectors as
    well, and ``+ i`` stands there too. ``a``, ``b`` and ``y`` are addresses, of numbers of one
    type, that of ``element``, whose value is nothing; they are integers, so that no code is compiled twice for arrays
    that differ in how many axes they have and whether they can be written to. ``rows`` and ``vectors`` are tuples whose lengths alone
    matter: how many rows and vectors a block has at most. The
    tables, ``*_rows`` and ``*_taps``, hold offsets in elements; an integer stands for the table of its multiples, and is
    the faster. Where it is the rows', the loop needs one register for all their addresses, of which there are few.

    What ``past`` is not empty for goes past the caches: vectors of ``y`` have to be whole lines of them then.

    What later calls read can be fetched meanwhile: from ``a_soon`` on in ``a``, as far on for every tap as ``a_move``,
    if that is not empty, has for its one entry, and the same in ``b``. Processors fetch ahead by themselves, but they
    begin late, and again on every page.

    Where vectors of ``b`` are of a row with zeros around it that are not stored, ``columns`` says how far right of
    ``column``, that of their first lane, each tap's is, and ``width`` how many columns there are. With an ``edge`` that
    is not zero, what lies outside is not read, but taken for zeros; else there has to be nothing such.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])

        def data(which: int) -> Any:
            return builder.inttoptr(args[which], v.type.element.as_pointer())

        def table(which: int) -> Callable[[Any], Any]:
            if isinstance(signature.args[which], types.Array):
                entries = context.make_array(signature.args[which])(context, builder, args[which]).data
                return lambda index: builder.load(builder.gep(entries, [index]))
            return lambda index: builder.mul(
                index, context.cast(builder, args[which], signature.args[which], types.int64)
            )

        a_base, b_base, base, first, number, lanes, begin, end = (args[i] for i in (5, 9, 12, 14, 15, 16, 17, 18))
        a, b, y = map(data, (4, 8, 11))
        a_rows, a_steps, b_steps, y_rows = map(table, (6, 7, 10, 13))
        more = context.cast(builder, args[19], signature.args[19], types.boolean)
        beyond, framed = bool(len(signature.args[20])), isinstance(signature.args[25], types.Array)
        if framed:
            columns = table(25)
            column, width, edge = (context.cast(builder, args[i], signature.args[i], types.int64) for i in (26, 27, 28))

        def vectors_of(array: Any, offset: Any, masks: list[Any]) -> list[Any]:
            return [v.load(array, ahead(offset, i), mask) for i, mask in enumerate(masks)]

        def ahead(offset: Any, vector: int) -> Any:
            return builder.add(offset, INDEX(vector * v.lanes))

        wanted = [builder.icmp_signed("<", INDEX(m), number) for m in range(len(rows))]
        # Rows that nobody wants are computed from the first one's operands, and stored nowhere.
        which = [builder.add(first, builder.select(want, INDEX(m), INDEX(0))) for m, want in enumerate(wanted)]
        y_start = [builder.add(base, y_rows(index)) for index in which]
        if not isinstance(signature.args[6], types.Array):  # evenly spaced, and there for all
            which = [builder.add(first, INDEX(m)) for m in range(len(rows))]
        a_start = [builder.add(a_base, a_rows(index)) for index in which]

        streams = [
            (array, context.cast(builder, args[which], signature.args[which], types.int64), move)
            for array, which in ((a, 21), (b, 23))
            if isinstance(signature.args[which + 1], types.BaseTuple)
            for move in cgutils.unpack_tuple(builder, args[which + 1])
        ]

        def block(masks: list[Any]) -> None:
            apart = framed and masks[0] is not None
            sums = [[cgutils.alloca_once(builder, v.type) for _ in masks] for _ in rows]
            for place in chain.from_iterable(sums):
                builder.store(v.zero, place)
            with v.each(begin, end) as tap:
                a_step, b_start = a_steps(tap), builder.add(b_base, b_steps(tap))
                for array, there, move in streams:
                    v.fetch(array, builder.add(there, builder.mul(builder.sub(tap, begin), move)))
                inside = masks
                if apart:
                    here = builder.add(column, columns(tap))
                    inside = [v.within(ahead(here, i), width) for i in range(len(masks))]
                right = vectors_of(b, b_start, inside)
                for row, start in zip(sums, a_start, strict=True):
                    there = builder.add(start, a_step)
                    if len(scalars):
                        left = [v.splat(builder.load(builder.gep(a, [there])))] * len(masks)
                    else:
                        left = vectors_of(a, there, masks)
                    met = [
                        v.multiply_add(one, other, builder.load(place))
                        for place, one, other in zip(row, left, right, strict=True)
                    ]
                    for place, vector in zip(row, v.settle(met), strict=True):
                        builder.store(vector, place)
            # What was there comes last: of many terms, few are added to a large sum, and so less is lost to rounding.
            with builder.if_then(more):
                for row, start in zip(sums, y_start, strict=True):
                    for place, vector in zip(row, vectors_of(y, start, masks), strict=True):
                        builder.store(v.add(builder.load(place), vector), place)
            for want, row, start in zip(wanted, sums, y_start, strict=True):
                with builder.if_then(want, likely=True):
                    for i, (mask, place) in enumerate(zip(masks, row, strict=True)):
                        v.store(builder.load(place), y, ahead(start, i), mask, past=beyond)

        full = builder.icmp_signed(">=", lanes, INDEX(len(vectors) * v.lanes))
        if framed:
            full = builder.and_(full, builder.icmp_signed("==", edge, INDEX(0)))
        with builder.if_else(full, likely=True) as (then, otherwise):
            with then:
                block([None] * len(vectors))
            with otherwise:
                block([v.first(builder.sub(lanes, INDEX(i * v.lanes))) for i in range(len(vectors))])
        return context.get_dummy_value()

    operands = (
        a, a_base, a_rows, a_taps, b, b_base, b_taps, y, y_base, y_rows, first, number, lanes, begin, end, more,
        past if isinstance(past, types.BaseTuple) else types.Tuple(()),
        *(
            given if isinstance(given, types.Type) else types.none
            for given in (a_soon, a_move, b_soon, b_move, columns, column, width, edge)
        ),
    )  # fmt: skip
    return types.void(element, rows, vectors, scalars, *operands), build


def _seen(output: int, tap: int, step: int) -> tuple[int, int]:
    """The pixel that an output sees by a tap: how far on from which output's window; the first's, if all share theirs.

    They do where neighbouring windows are a ``step`` of some taps apart.
    """
    return (0, output * step + tap) if step else (output, tap)


@intrinsic
def sweep(
    context, element, several, together, step, a, a_base, a_row, b, b_base, b_tap, y, y_base, y_row, number, more,
):  # fmt: skip
    """Some taps stay in registers while they sweep over positions: sums of numbers of ``a`` times vectors of ``b``.

    The other way round than :func:`multiply`, where sums stay and taps pass by: where a sum has few taps, what it costs
    to begin one and to store it would be seen. For ``i < number``, a multiple of as many as ``together`` are, whose
    sums do not wait for one another, over ``t`` below the length of ``several`` and for all lanes ``l``::

        y[y_base + i * y_row + l] = sum a[a_base + i * a_row + t] * b[b_base + t * b_tap + l]

    or, where there is ``more``, that much more than it was. If ``step`` is not empty, it has as many entries as
    ``a_row`` comes to; a number that several sums see is then loaded once for all of them, and stays until the last.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        apart = len(signature.args[3])
        a, b, y = (builder.inttoptr(args[i], v.type.element.as_pointer()) for i in (4, 7, 10))
        a_base, a_row, b_base, b_tap, y_base, y_row, number = (
            context.cast(builder, args[i], signature.args[i], types.int64) for i in (5, 6, 8, 9, 11, 12, 13)
        )
        more = context.cast(builder, args[14], signature.args[14], types.boolean)
        kernel = [v.load(b, builder.add(b_base, builder.mul(INDEX(t), b_tap)), None) for t in range(len(several))]

        def over(adding: bool) -> None:
            with v.each(INDEX(0), number, len(together)) as first:
                which = [builder.add(first, INDEX(m)) for m in range(len(together))]
                a_start = [builder.add(a_base, builder.mul(i, a_row)) for i in which]
                y_start = [builder.add(y_base, builder.mul(i, y_row)) for i in which]
                totals = [v.load(y, place, None) if adding else v.zero for place in y_start]
                loaded: dict[tuple[int, int], Any] = {}

                def pixel(m: int, t: int) -> Any:
                    which = row, ahead = _seen(m, t, apart)
                    if which not in loaded:
                        there = builder.add(a_start[row], INDEX(ahead))
                        loaded[which] = v.splat(builder.load(builder.gep(a, [there])))
                    return loaded[which]

                for t, tap in enumerate(kernel):
                    met = [v.multiply_add(pixel(m, t), tap, total) for m, total in enumerate(totals)]
                    totals = v.settle(met)
                for total, place in zip(totals, y_start, strict=True):
                    v.store(total, y, place, None)

        with builder.if_else(more) as (then, otherwise):
            with then:
                over(True)
            with otherwise:
                over(False)
        return context.get_dummy_value()

    operands = a, a_base, a_row, b, b_base, b_tap, y, y_base, y_row, number, more
    return types.void(element, several, together, step, *operands), build


@intrinsic
def slide(
    context, element, high, rows, tall, several, down, step, wide_a, wide_b, a, a_base, a_down, a_row, a_tap, a_lines,
    b, b_base, b_down, b_tap, b_lines, y, y_base, y_down, y_row, lanes, begin, end, taps, past=(),
    columns=None, column=None, width=None, line=None, lines_row=None, lines_tap=None, height=None, edge=None,
):  # fmt: skip
    """Sums over lines of taps, of vectors of ``a`` times vectors of ``b``, for a block of neighbouring outputs.

    A block has as many outputs as ``high`` has entries by as many as ``rows`` has, and a line is of as many rows of taps
    as ``tall`` has, by as many ``taps``. For every output ``(k, m)`` and ``i < lanes``, over ``l`` from ``begin`` to
    ``end - 1``, over ``u`` below the length of ``tall`` and ``t < taps``::

        y[y_base + k * y_down + m * y_row + i]
            = sum a[a_base + a_lines[l] + (k * d + u) * a_down + m * a_row + t * a_tap + i]
                * b[b_base + b_lines[l] + u * b_down + t * b_tap + i]

    where ``d`` is the length of ``down``, and there is one number for all lanes, and no ``+ i``, in ``a`` or ``b`` unless
    ``wide_a`` or ``wide_b`` has entries. So many taps as ``several`` has are met at a time. If the window of the next
    output of a row begins some taps further on, ``step`` has as many: what is loaded for one then serves all that see
    it, along both axes. If not, ``step`` is empty. ``past`` is as in :func:`multiply`.

    Where ``a`` is a plane with zeros around it that are not stored, ``columns`` says how far right of its first lane's
    column, ``column``, that of a line's pixels is, and ``width`` how many columns there are; ``line`` is which of
    ``height`` lines of the plane the block's first pixels are on, and ``lines_row`` and ``lines_tap`` how many lines on
    the next output's and the next tap's are. With an ``edge`` that is not zero, what lies outside is not read, but taken
    for zeros; else there has to be nothing such.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        high, rows, tall, several, down, step, wide_a, wide_b = map(len, signature.args[1:9])
        a, b, y = (builder.inttoptr(args[i], v.type.element.as_pointer()) for i in (9, 15, 20))
        a_base, a_down, a_row, a_tap, b_base, b_down, b_tap, y_base, y_down, y_row, lanes, begin, end, taps = (
            context.cast(builder, args[i], signature.args[i], types.int64)
            for i in (10, 11, 12, 13, 16, 17, 18, 21, 22, 23, 24, 25, 26, 27)
        )
        a_lines, b_lines = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (14, 19))
        outputs, beyond = [*product(range(high), range(rows))], bool(len(signature.args[28]))
        framed = isinstance(signature.args[29], types.Array)
        if framed:
            columns = context.make_array(signature.args[29])(context, builder, args[29]).data
            column, width, line, lines_row, lines_tap, height, edge = (
                context.cast(builder, args[i], signature.args[i], types.int64) for i in range(30, 37)
            )

        def at(first: Any, *moves: tuple[int, Any]) -> Any:
            for number, distance in moves:
                first = builder.add(first, builder.mul(INDEX(number), distance))
            return first

        def load(data: Any, place: Any, wide: int, mask: Any) -> Any:
            return v.load(data, place, mask) if wide else v.splat(builder.load(builder.gep(data, [place])))

        nothing = cgutils.alloca_once_value(builder, v.zero)
        nothing = builder.bitcast(nothing, v.type.element.as_pointer())

        def block(mask: Any) -> None:
            apart = framed and mask is not None
            sums = {output: cgutils.alloca_once(builder, v.type) for output in outputs}
            for place in sums.values():
                builder.store(v.zero, place)
            with v.each(begin, end) as number:
                a_line = builder.add(a_base, builder.load(builder.gep(a_lines, [number])))
                b_line = builder.add(b_base, builder.load(builder.gep(b_lines, [number])))
                inside = mask
                if apart:
                    here = builder.add(column, builder.load(builder.gep(columns, [number])))
                    inside = v.within(here, width)

                def meet(tap: Any, some: int) -> None:
                    """As many as ``some`` taps of each row, from ``tap`` on."""
                    a_start = builder.add(a_line, builder.mul(tap, a_tap))
                    b_start = builder.add(b_line, builder.mul(tap, b_tap))
                    kernel = {
                        (u, t): load(b, at(b_start, (u, b_down), (t, b_tap)), wide_b, mask)
                        for u, t in product(range(tall), range(some))
                    }
                    # Who sees what, where windows follow each other: a pixel is met by a tap for every output that sees it.
                    seen: dict[tuple[int, int, int], list[tuple[tuple[int, int], tuple[int, int]]]] = {}
                    for (k, m), (u, t) in product(outputs, kernel):
                        seen.setdefault((k * down + u, *_seen(m, t, step)), []).append(((k, m), (u, t)))
                    for (row, along, ahead), met in sorted(seen.items()):
                        place = at(a_start, (row, a_down), (along, a_row), (ahead, a_tap))
                        if apart:
                            first = builder.add(line, builder.mul(tap, lines_tap))
                            there = builder.icmp_unsigned(
                                "<", at(first, (along, lines_row), (ahead, lines_tap)), height
                            )
                            pixels = v.load(builder.select(there, builder.gep(a, [place]), nothing), INDEX(0), inside)
                        else:
                            pixels = load(a, place, wide_a, mask)
                        added = [
                            v.multiply_add(pixels, kernel[which], builder.load(sums[output])) for output, which in met
                        ]
                        for (output, _), vector in zip(met, v.settle(added), strict=True):
                            builder.store(vector, sums[output])

                whole = builder.sub(taps, builder.srem(taps, INDEX(several)))
                with v.each(INDEX(0), whole, several) as tap:
                    meet(tap, several)
                if several > 1:
                    with v.each(whole, taps) as tap:
                        meet(tap, 1)
            for (k, m), place in sums.items():
                v.store(builder.load(place), y, at(y_base, (k, y_down), (m, y_row)), mask, past=beyond)

        full = builder.icmp_signed(">=", lanes, INDEX(v.lanes))
        if framed:
            full = builder.and_(full, builder.icmp_signed("==", edge, INDEX(0)))
        with builder.if_else(full, likely=True) as (then, otherwise):
            with then:
                block(None)
            with otherwise:
                block(v.first(lanes))
        return context.get_dummy_value()

    operands = (
        a, a_base, a_down, a_row, a_tap, a_lines, b, b_base, b_down, b_tap, b_lines, y, y_base, y_down, y_row, lanes,
        begin, end, taps, past if isinstance(past, types.BaseTuple) else types.Tuple(()),
        *(
            given if isinstance(given, types.Type) else types.none
            for given in (columns, column, width, line, lines_row, lines_tap, height, edge)
        ),
    )  # fmt: skip
    return types.void(element, high, rows, tall, several, down, step, wide_a, wide_b, *operands), build


@intrinsic
def copy(context, element, source, begin, target, start, number):
    """``target[start + i] = source[begin + i]`` for ``i < number``, in vectors however few there are."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        source, target = (builder.inttoptr(args[i], v.type.element.as_pointer()) for i in (1, 3))
        _, _, begin, _, start, number = args

        def move(i: Any, mask: Any) -> None:
            v.store(v.load(source, builder.add(begin, i), mask), target, builder.add(start, i), mask)

        rest = builder.srem(number, INDEX(v.lanes))
        whole = builder.sub(number, rest)
        with v.each(INDEX(0), whole, v.lanes) as i:
            move(i, None)
        with builder.if_then(builder.icmp_signed(">", rest, INDEX(0))):
            move(whole, v.first(rest))
        return context.get_dummy_value()

    return types.void(element, source, begin, target, start, number), build
