"""The micro-kernel: a small block of the result stays in registers while all that adds to it streams past.

Every fast product ends in one (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008); Van Zee
& van de Geijn, "BLIS" (2015)). This one finds its operands through tables of offsets, so that the very same loop
multiplies matrices, meets a kernel with an image whose windows are stored nowhere (Dukhan, "The indirect convolution
algorithm", arXiv:1907.02129), and transforms the blocks of Winograd's method.

A compiler left to itself finds no such loop in Python, so it is written in the compiler's own vectors. How many rows
and vectors a block has is told by the types of two tuples; numba compiles one for each such pair when it is first met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import INDEX, REGISTERS, VECTOR_BYTES, Vectors

__all__ = ["REGISTERS", "VECTOR_BYTES", "copy", "multiply", "slide", "sweep"]


@dataclass(frozen=True, slots=True)
class _Given:
    """An argument of an intrinsic, as the compiler has it; of a tuple, its fields are such themselves."""

    context: Any
    builder: Any
    type: Any
    value: Any

    def __len__(self) -> int:
        return len(self.type)

    def __iter__(self) -> Iterator[_Given]:
        values = cgutils.unpack_tuple(self.builder, self.value)
        return (_Given(self.context, self.builder, *each) for each in zip(self.type.types, values, strict=True))

    @property
    def none(self) -> bool:
        """Whether there is nothing."""
        return isinstance(self.type, types.NoneType | types.Omitted)

    @property
    def stored(self) -> bool:
        """Whether it is a table in memory."""
        return isinstance(self.type, types.Array)

    @property
    def integer(self) -> Any:
        """An integer, as the compiler counts."""
        return self.context.cast(self.builder, self.value, self.type, types.int64)

    @property
    def boolean(self) -> Any:
        """A truth."""
        return self.context.cast(self.builder, self.value, self.type, types.boolean)

    def data(self, vectors: Vectors) -> Any:
        """An address, as a pointer to numbers."""
        return self.builder.inttoptr(self.value, vectors.type.element.as_pointer())

    @property
    def table(self) -> Callable[[Any], Any]:
        """A table's entries by number; an integer stands for the table of its multiples."""
        if self.stored:
            entries = self.context.make_array(self.type)(self.context, self.builder, self.value).data
            return lambda index: self.builder.load(self.builder.gep(entries, [index]))
        number = self.integer
        return lambda index: self.builder.mul(index, number)


def _all_given(context: Any, builder: Any, signature: Any, args: Any) -> Iterator[_Given]:
    """An intrinsic's arguments."""
    return (_Given(context, builder, *each) for each in zip(signature.args, args, strict=True))


@intrinsic
def multiply(context, element, code, a, b, y, places, first, number, lanes, begin, end, more, soon=None, frame=None):
    """Sums over taps of numbers of ``a`` times vectors of ``b``, for a block of rows and vectors of ``y``.

    What is multiplied are numbers of one type, that of ``element``, whose value is nothing. Operands are tuples that
    begin with an address, an integer, so that no code is compiled twice for arrays that differ in how many axes they
    have and whether they can be written to; then come tables of offsets in elements: of ``a`` its ``rows`` and its
    ``taps``, of ``b`` its ``taps``, of ``y`` its ``rows``. An integer stands for the table of its multiples, and is the
    faster: where it is the rows', the loop needs one register for all their addresses, of which there are few.
    ``places`` are where in memory of ``a``, ``b`` and ``y`` all that begins. For ``m < number`` and ``i < lanes``, and
    over ``t`` from ``begin`` to ``end - 1``::

        y[place + rows[first + m] + i] = sum a[place + rows[first + m] + taps[t]] * b[place + taps[t] + i]

    or, where there is ``more``, that much more than it was.

    The ``code`` is five tuples, of which nothing but lengths matters: a block has as many ``rows`` and ``vectors``, at
    most, as the first two; if the third, ``scalars``, is empty, ``a`` has vectors as well, and ``+ i`` stands there
    too; the fourth, ``apart``, has one entry, or more where what meets lanes lies further apart in ``b``, and ``+ i *
    len(apart)`` stands there; if the fifth, ``past``, is not empty, ``y`` goes past the caches, and its vectors have to
    be whole lines of them.

    What later calls read can be fetched meanwhile, if ``soon`` says where in ``a`` that begins and how far on it goes
    for every tap, in a tuple of one entry or none, and the same of ``b``. Processors fetch ahead by themselves, but
    they begin late, and again on every page.

    Where vectors of ``b`` are of a row with zeros around it that are not stored, ``b`` has a second table, of how far
    right of their first lane's column each tap's is; the ``frame`` is the first lane's column, how many columns there
    are, whether a block may see an edge, where what lies outside is not read, but taken for zeros (elsewhere there has
    to be nothing such), and how far on what the next row's block sees lies, which is fetched. Only of such a row may
    lanes meet what lies further apart.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        _, code, a, b, y, places, *counts, more, soon, frame = _all_given(context, builder, signature, args)
        rows, vectors, scalars, apart, past = map(len, code)
        (a, a_rows, a_taps), (b, b_taps, *b_columns), (y, y_rows) = a, b, y
        spaced = not a_rows.stored
        a_rows, a_taps, b_taps, y_rows = (each.table for each in (a_rows, a_taps, b_taps, y_rows))
        a, b, y = (each.data(v) for each in (a, b, y))
        a_place, b_place, y_place = (each.integer for each in places)
        first, number, lanes, begin, end = (each.integer for each in counts)
        more, framed = more.boolean, not frame.none
        if framed:
            (columns,) = b_columns
            columns = columns.table
            column, width, edge, next_row = (each.integer for each in frame)
        streams = []
        if not soon.none:
            a_soon, a_move, b_soon, b_move = soon
            streams = [(a, a_soon.integer, move.integer) for move in a_move]
            streams += [(b, b_soon.integer, move.integer) for move in b_move]

        def vectors_of(array: Any, offset: Any, masks: list[Any]) -> list[Any]:
            return [v.load(array, ahead(offset, i), mask) for i, mask in enumerate(masks)]

        def ahead(offset: Any, vector: int) -> Any:
            return builder.add(offset, INDEX(vector * v.lanes))

        wanted = [builder.icmp_signed("<", INDEX(m), number) for m in range(rows)]
        # Rows that nobody wants are computed from the first one's operands, and stored nowhere.
        which = [builder.add(first, builder.select(want, INDEX(m), INDEX(0))) for m, want in enumerate(wanted)]
        y_start = [builder.add(y_place, y_rows(index)) for index in which]
        if spaced:  # evenly, and there for all
            which = [builder.add(first, INDEX(m)) for m in range(rows)]
        a_start = [builder.add(a_place, a_rows(index)) for index in which]

        def block(masks: list[Any]) -> None:
            beside = framed and masks[0] is not None
            sums = [[cgutils.alloca_once(builder, v.type) for _ in masks] for _ in range(rows)]
            for place in chain.from_iterable(sums):
                builder.store(v.zero, place)
            with v.each(begin, end) as tap:
                a_step, b_start = a_taps(tap), builder.add(b_place, b_taps(tap))
                for array, there, move in streams:
                    v.fetch(array, builder.add(there, builder.mul(builder.sub(tap, begin), move)))
                inside = [mask and [mask] for mask in masks]
                if beside:
                    here = builder.add(column, columns(tap))
                    inside = [v.within(ahead(here, i * apart), width, apart) for i in range(vectors)]
                if framed:
                    for i in range(vectors):
                        v.fetch(b, builder.add(ahead(b_start, i * apart), next_row))
                right = [v.gather(b, ahead(b_start, i * apart), apart, those) for i, those in enumerate(inside)]
                for row, start in zip(sums, a_start, strict=True):
                    there = builder.add(start, a_step)
                    if scalars:
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
                        v.store(builder.load(place), y, ahead(start, i), mask, past=bool(past))

        full = builder.icmp_signed(">=", lanes, INDEX(vectors * v.lanes))
        if framed:
            full = builder.and_(full, builder.icmp_signed("==", edge, INDEX(0)))
        with builder.if_else(full, likely=True) as (then, otherwise):
            with then:
                block([None] * vectors)
            with otherwise:
                block([v.first(builder.sub(lanes, INDEX(i * v.lanes))) for i in range(vectors)])
        return context.get_dummy_value()

    optional = (given if isinstance(given, types.Type) else types.none for given in (soon, frame))
    return types.void(element, code, a, b, y, places, first, number, lanes, begin, end, more, *optional), build


def _seen(output: int, tap: int, step: int) -> tuple[int, int]:
    """The pixel that an output sees by a tap: how far on from which output's window; the first's, if all share theirs.

    They do where neighbouring windows are a ``step`` of some taps apart.
    """
    return (0, output * step + tap) if step else (output, tap)


@intrinsic
def sweep(context, element, code, a, b, y, places, number, more):
    """Some taps stay in registers while they sweep over positions: sums of numbers of ``a`` times vectors of ``b``.

    The other way round than :func:`multiply`, where sums stay and taps pass by: where a sum has few taps, what it costs
    to begin one and to store it would be seen. Operands are an address and how far apart in elements lie the ``rows``
    of ``a`` and of ``y``, and the ``taps`` of ``b``; ``places`` are where in memory they begin. For ``i < number``,
    over ``t`` and for all lanes ``l``::

        y[place + i * rows + l] = sum a[place + i * rows + t] * b[place + t * taps + l]

    or, where there is ``more``, that much more than it was. The ``code`` is three tuples, of which nothing but lengths
    matters: there are as many taps as ``several`` has; sums do not wait for one another, as many as ``together`` has,
    of which ``number`` is a multiple; if ``step`` is not empty, it has as many entries as the rows of ``a`` lie apart,
    and a number that several sums see is then loaded once for all of them, and stays until the last.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        _, code, a, b, y, places, number, more = _all_given(context, builder, signature, args)
        several, together, step = map(len, code)
        (a, a_row), (b, b_tap), (y, y_row) = ((data.data(v), apart.integer) for data, apart in (a, b, y))
        a_place, b_place, y_place = (each.integer for each in places)
        number, more = number.integer, more.boolean
        kernel = [v.load(b, builder.add(b_place, builder.mul(INDEX(t), b_tap)), None) for t in range(several)]

        def over(adding: bool) -> None:
            with v.each(INDEX(0), number, together) as first:
                which = [builder.add(first, INDEX(m)) for m in range(together)]
                a_start = [builder.add(a_place, builder.mul(i, a_row)) for i in which]
                y_start = [builder.add(y_place, builder.mul(i, y_row)) for i in which]
                totals = [v.load(y, place, None) if adding else v.zero for place in y_start]
                loaded: dict[tuple[int, int], Any] = {}

                def pixel(m: int, t: int) -> Any:
                    which = row, ahead = _seen(m, t, step)
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

    return types.void(element, code, a, b, y, places, number, more), build


@intrinsic
def slide(context, element, code, a, b, y, places, lanes, begin, end, taps, frame):
    """Sums over lines of taps, of vectors of ``a`` times vectors of ``b``, for a block of neighbouring outputs.

    Operands are tuples of an address and of distances in elements: of ``a`` from one line of pixels ``down`` to the
    next, from one output's pixels to the next one's of the ``row``, and from those of a ``tap`` to those of the next;
    of ``b`` ``down`` and to the next ``tap``; of ``y`` ``down`` and along a ``row``. In ``a`` and ``b`` a table follows
    of where ``lines`` of taps begin, and ``places`` are where in memory of ``a``, ``b`` and ``y`` all that begins. For
    every output ``(k, m)`` of a block and ``i < lanes``, over ``l`` from ``begin`` to ``end - 1``, over ``u`` and ``t <
    taps``::

        y[place + k * down + m * row + i]
            = sum a[place + lines[l] + (k * d + u) * down + m * row + t * tap + i * wide_a]
                * b[place + lines[l] + u * down + t * tap + i * wide_b]

    The ``code`` is nine tuples, of which nothing but lengths matters. A block has as many outputs as ``high`` has
    entries by as many as ``rows`` has; ``u`` counts those of ``tall``, and ``d`` is the length of ``down``; so many
    taps as ``several`` has are met at a time. If the window of the next output of a row begins some taps further on,
    ``step`` has as many: what is loaded for one then serves all that see it, along both axes; if not, ``step`` is
    empty. So many elements as ``wide_a`` and ``wide_b`` have entries lies what meets one lane from what meets the next:
    if they have none, there is one number for all lanes; ``wide_a`` may have more than one where ``a`` is a plane.
    ``past`` is as in :func:`multiply`.

    Where ``a`` is a plane with zeros around it that are not stored, it has a second table, else None, of how far right
    of its first lane's column that of a line's pixels is. The ``frame``, which is looked at then alone, is the first
    lane's column, how many columns there are, which line the block's first pixels are on, how many lines on those of
    the next output and of the next tap are, how many lines there are, and whether the block may see an edge, where what
    lies outside is not read, but taken for zeros; elsewhere there has to be nothing such.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        _, code, a, b, y, places, *counts, frame = _all_given(context, builder, signature, args)
        high, rows, tall, several, down, step, wide_a, wide_b, past = map(len, code)
        (a, *a_apart, a_lines, columns), (b, *b_apart, b_lines), (y, *y_apart) = a, b, y
        a, b, y = (each.data(v) for each in (a, b, y))
        a_lines, b_lines = a_lines.table, b_lines.table
        (a_down, a_row, a_tap), (b_down, b_tap), (y_down, y_row) = (
            [each.integer for each in apart] for apart in (a_apart, b_apart, y_apart)
        )
        a_place, b_place, y_place = (each.integer for each in places)
        lanes, begin, end, taps = (each.integer for each in counts)
        framed = columns.stored
        if framed:
            columns = columns.table
            column, width, line, lines_row, lines_tap, height, edge = (each.integer for each in frame)
        outputs = [*product(range(high), range(rows))]

        def at(first: Any, *moves: tuple[int, Any]) -> Any:
            for number, distance in moves:
                first = builder.add(first, builder.mul(INDEX(number), distance))
            return first

        nothing = v.nothing(wide_a)

        def block(mask: Any) -> None:
            beside = framed and mask is not None
            whole = mask and [mask]
            sums = {output: cgutils.alloca_once(builder, v.type) for output in outputs}
            for place in sums.values():
                builder.store(v.zero, place)
            with v.each(begin, end) as number:
                a_line, b_line = builder.add(a_place, a_lines(number)), builder.add(b_place, b_lines(number))
                inside = whole
                if beside:
                    inside = v.within(builder.add(column, columns(number)), width, wide_a)

                def meet(tap: Any, some: int) -> None:
                    """As many as ``some`` taps of each row, from ``tap`` on."""
                    a_start = builder.add(a_line, builder.mul(tap, a_tap))
                    b_start = builder.add(b_line, builder.mul(tap, b_tap))
                    kernel = {
                        (u, t): v.gather(b, at(b_start, (u, b_down), (t, b_tap)), wide_b, whole)
                        for u, t in product(range(tall), range(some))
                    }
                    # Who sees what, where windows follow each other: a pixel is met by a tap for every output that sees it.
                    seen: dict[tuple[int, int, int], list[tuple[tuple[int, int], tuple[int, int]]]] = {}
                    for (k, m), (u, t) in product(outputs, kernel):
                        seen.setdefault((k * down + u, *_seen(m, t, step)), []).append(((k, m), (u, t)))
                    for (row, along, ahead), met in sorted(seen.items()):
                        place = at(a_start, (row, a_down), (along, a_row), (ahead, a_tap))
                        if beside:
                            first = builder.add(line, builder.mul(tap, lines_tap))
                            there = builder.icmp_unsigned(
                                "<", at(first, (along, lines_row), (ahead, lines_tap)), height
                            )
                            line_of = builder.select(there, builder.gep(a, [place]), nothing)
                            pixels = v.gather(line_of, INDEX(0), wide_a, inside)
                        else:
                            pixels = v.gather(a, place, wide_a, whole)
                        added = [
                            v.multiply_add(pixels, kernel[which], builder.load(sums[output])) for output, which in met
                        ]
                        for (output, _), vector in zip(met, v.settle(added), strict=True):
                            builder.store(vector, sums[output])

                together = builder.sub(taps, builder.srem(taps, INDEX(several)))
                with v.each(INDEX(0), together, several) as tap:
                    meet(tap, several)
                if several > 1:
                    with v.each(together, taps) as tap:
                        meet(tap, 1)
            for (k, m), place in sums.items():
                v.store(builder.load(place), y, at(y_place, (k, y_down), (m, y_row)), mask, past=bool(past))

        full = builder.icmp_signed(">=", lanes, INDEX(v.lanes))
        if framed:
            full = builder.and_(full, builder.icmp_signed("==", edge, INDEX(0)))
        with builder.if_else(full, likely=True) as (then, otherwise):
            with then:
                block(None)
            with otherwise:
                block(v.first(lanes))
        return context.get_dummy_value()

    return types.void(element, code, a, b, y, places, lanes, begin, end, taps, frame), build


@intrinsic
def copy(context, element, source, begin, target, start, number, apart=None):
    """``target[start + i] = source[begin + i]`` for ``i < number``, in vectors however few there are.

    Of a tuple ``apart`` nothing but the length matters, so far apart lie the elements in ``source``; one, without it.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        _, source, begin, target, start, number, apart = _all_given(context, builder, signature, args)
        source, target = (each.data(v) for each in (source, target))
        begin, start, number = (each.integer for each in (begin, start, number))
        step = 1 if apart.none else len(apart)

        def far(i: Any) -> Any:
            return builder.mul(i, INDEX(step))

        def move(i: Any, inside: list[Any] | None, mask: Any) -> None:
            v.store(v.gather(source, builder.add(begin, far(i)), step, inside), target, builder.add(start, i), mask)

        rest = builder.srem(number, INDEX(v.lanes))
        whole = builder.sub(number, rest)
        with v.each(INDEX(0), whole, v.lanes) as i:
            move(i, None, None)
        with builder.if_then(builder.icmp_signed(">", rest, INDEX(0))):
            after = builder.sub(far(rest), INDEX(step - 1))  # the last of them
            move(whole, v.within(INDEX(0), after, step), v.first(rest))
        return context.get_dummy_value()

    given = apart if isinstance(apart, types.Type) else types.none
    return types.void(element, source, begin, target, start, number, given), build
