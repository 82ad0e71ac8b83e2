"""Vectors of a processor as numbers in compiled Python: loaded, added, multiplied and stored whole.

``load`` gives one, ``+``, ``-`` and ``*`` work lane by lane, and so loops over vectors read as loops over numbers do.
Arrays are addresses, as in :mod:`polyconv.compiled.microkernel`; ``element`` is a number whose type alone matters.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

__all__ = [
    "INDEX",
    "INT",
    "REGISTERS",
    "VECTOR_BYTES",
    "Vectors",
    "lanes_of",
    "lanes_to_rows",
    "load",
    "load_first",
    "rows_to_lanes",
    "splat",
    "store",
    "store_first",
    "turn",
    "zero",
]

_, _, _features = cpu_target.target_context.codegen().magic_tuple()  # of what numba compiles for
_WIDE, _SETTLES = (feature in _features.split(",") for feature in ("+avx512f", "+avx"))
VECTOR_BYTES = 64 if _WIDE else 32
"""Bytes of a vector."""
REGISTERS = 32 if _WIDE else 16
"""How many vectors the processor holds at once."""

INT, INDEX = ir.IntType(32), ir.IntType(64)
"""The compiler's integers: those of masks, and those that count."""


class Vectors:
    """What a builder must know to load, store and multiply vectors of one dtype."""

    def __init__(self, builder: Any, dtype: Any) -> None:
        bits = dtype.bitwidth
        self.builder, self.align, self.floating = builder, bits // 8, isinstance(dtype, types.Float)
        self.lanes = 8 * VECTOR_BYTES // bits
        element = ir.IntType(bits) if not self.floating else {32: ir.FloatType(), 64: ir.DoubleType()}[bits]
        self.type, self.mask = ir.VectorType(element, self.lanes), ir.VectorType(ir.IntType(1), self.lanes)
        self.zero = ir.Constant(self.type, None)
        self.suffix = f"v{self.lanes}{'f' if self.floating else 'i'}{bits}"

    def _call(self, name: str, result: Any, *args: Any) -> Any:
        signature = ir.FunctionType(result, [a.type for a in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), args)

    def _place(self, data: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [offset]), self.type.as_pointer())

    @contextmanager
    def each(self, begin: Any, end: Any, step: int = 1) -> Iterator[Any]:
        """Every ``step``-th index from ``begin`` to before ``end``, in a loop that stays as it is written.

        Compilers like to write a loop's body several times, whose loads, all made first, need more registers than
        there are.
        """
        builder = self.builder
        before = builder.basic_block
        head, body, after = map(builder.append_basic_block, ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(INDEX)
        index.add_incoming(begin, before)
        builder.cbranch(builder.icmp_signed("<", index, end), body, after)
        builder.position_at_end(body)
        yield index
        index.add_incoming(builder.add(index, INDEX(step)), builder.basic_block)
        once = builder.module.add_metadata([builder.module.add_metadata(["llvm.loop.unroll.disable"])])
        builder.branch(head).set_metadata("llvm.loop", once)
        builder.position_at_end(after)

    def settle(self, vectors: list[Any]) -> list[Any]:
        """The same vectors, which are computed here: what is written below is loaded below.

        A compiler that knows how long loads take makes as many as it can ahead of their use, and runs out of registers:
        blocks of 12 rows by 2 vectors then took two to four times as long on a Zen 5. An empty piece of assembler, which
        it does not look into, stands in its way; it costs nothing when it runs.
        """
        if not (_SETTLES and self.floating):
            return vectors
        number = len(vectors)
        those = ir.LiteralStructType([self.type] * number) if number > 1 else self.type
        operands = ["=v"] * number + [*map(str, range(number))]  # vectors, each of which comes out where it goes in
        nothing = ir.FunctionType(those, [self.type] * number)
        there = self.builder.asm(nothing, "", ",".join([*operands, "~{memory}"]), vectors, side_effect=True)
        return [self.builder.extract_value(there, i) for i in range(number)] if number > 1 else [there]

    def splat(self, value: Any, like: Any = None) -> Any:
        """A vector of one value."""
        like = like or self.type
        nothing = ir.Constant(like, ir.Undefined)
        first = self.builder.insert_element(nothing, value, INT(0))
        return self._shuffle(first, nothing, [0] * self.lanes)

    def _shuffle(self, one: Any, other: Any, order: list[int]) -> Any:
        """Lanes of two vectors in some ``order``, in which those of the ``other`` follow."""
        return self.builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(INT, len(order)), order))

    def first(self, number: Any) -> Any:
        """The mask of the first lanes, ``number`` of them, or fewer or more than there are."""
        wide = ir.VectorType(INDEX, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(wide, list(range(self.lanes))), self.splat(number, wide))

    def within(self, column: Any, width: Any, apart: int = 1) -> list[Any]:
        """The masks of what lies from 0 to ``width - 1`` in the vectors that :meth:`gather` loads from ``column`` on.

        Only the low 32 bits are looked at: columns lie within some 2**31 of those that there are, as problems have it.
        """
        wide = ir.VectorType(INT, self.lanes)
        column, width = (self.splat(self.builder.trunc(number, INT), wide) for number in (column, width))
        lanes = ([begin + lane for lane in range(self.lanes)] for begin in self._begins(apart))
        at = [self.builder.add(column, ir.Constant(wide, those)) for those in lanes]
        return [self.builder.icmp_unsigned("<", columns, width) for columns in at]

    def _begins(self, apart: int) -> list[int]:
        """Where vectors begin that have, of as many elements as lanes, ``apart`` from each other, all and none beyond."""
        last = (self.lanes - 1) * (apart - 1)
        begins = [0]
        while begins[-1] < last:
            begins.append(min(-(-(begins[-1] + self.lanes) // apart) * apart, last))
        return begins

    def load(self, data: Any, offset: Any, mask: Any) -> Any:
        """The vector that begins ``offset`` elements from a pointer; zeros where a ``mask`` has none."""
        place = self._place(data, offset)
        if mask is None:
            return self.builder.load(place, align=self.align)
        return self._call(f"llvm.masked.load.{self.suffix}.p0", self.type, place, INT(self.align), mask, self.zero)

    def gather(self, data: Any, offset: Any, apart: int, masks: list[Any] | None) -> Any:
        """Elements that lie ``apart`` from each other, one for every lane; the same one for all if that is zero.

        It takes as many loads of whole vectors, of which each may have a mask of :meth:`within`.
        """
        if not apart:
            return self.splat(self.builder.load(self.builder.gep(data, [offset])))
        begins, found = self._begins(apart), self.zero
        for begin, mask in zip(begins, masks or [None] * len(begins), strict=True):
            some = self.load(data, self.builder.add(offset, INDEX(begin)), mask)
            there = ((lane, lane * apart - begin) for lane in range(self.lanes))
            order = [self.lanes + at if 0 <= at < self.lanes else lane for lane, at in there]
            found = self._shuffle(found, some, order)
        return found if apart == 1 else self.settle([found])[0]

    def store(self, vector: Any, data: Any, offset: Any, mask: Any, past: bool = False) -> None:
        """Put a vector there, or what of it a ``mask`` has; a whole one, if it may, ``past`` the caches."""
        place = self._place(data, offset)
        if mask is None:
            stored = self.builder.store(vector, place, align=VECTOR_BYTES if past else self.align)
            if past:
                stored.set_metadata("nontemporal", self.builder.module.add_metadata([INT(1)]))
        else:
            name = f"llvm.masked.store.{self.suffix}.p0"
            self._call(name, ir.VoidType(), vector, place, INT(self.align), mask)

    def fetch(self, data: Any, offset: Any) -> None:
        """Have the line of the cache that holds an element fetched, if there is such memory."""
        place = self.builder.bitcast(self.builder.gep(data, [offset]), ir.IntType(8).as_pointer())
        to_read, near, of_data = INT(0), INT(2), INT(1)
        self._call("llvm.prefetch.p0", ir.VoidType(), place, to_read, near, of_data)

    def nothing(self, number: int) -> Any:
        """A pointer to ``number`` vectors of zeros."""
        there = ir.Constant(ir.ArrayType(self.type, number), None)
        pointer = cgutils.global_constant(self.builder, "nothing", there)
        return self.builder.bitcast(pointer, self.type.element.as_pointer())

    def add(self, a: Any, b: Any) -> Any:
        """``a + b``."""
        return self.builder.fadd(a, b) if self.floating else self.builder.add(a, b)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``, rounded once where the processor can."""
        if self.floating:
            return self._call(f"llvm.fmuladd.{self.suffix}", self.type, a, b, c)
        return self.builder.add(self.builder.mul(a, b), c)


# -- vectors in compiled Python ------------------------------------------------------------------------------


def _lanes(element: Any) -> int:
    return 8 * VECTOR_BYTES // int(element.bitwidth)


class Vector(types.Type):
    """As many numbers of a type as the processor takes at once."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        lanes = _lanes(kind.element)
        super().__init__(manager, kind, ir.VectorType(manager[kind.element].get_value_type(), lanes))


def _place(v: Vectors, builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, v.type.element.as_pointer())


@intrinsic
def lanes_of(context, element):
    """How many numbers of a type a vector has."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return INDEX(_lanes(signature.args[0]))

    return types.int64(element), build


@intrinsic
def load(context, element, source, offset):
    """The vector that begins ``offset`` elements from an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        return v.load(_place(v, builder, args[1]), args[2], None)

    return Vector(element)(element, types.int64, types.int64), build


@intrinsic
def load_first(context, element, source, offset, number):
    """The same of ``number`` elements, or as many as a vector has, and zeros."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        return v.load(_place(v, builder, args[1]), args[2], v.first(args[3]))

    return Vector(element)(element, types.int64, types.int64, types.int64), build


@intrinsic
def splat(context, element, source, offset):
    """A vector of one number, that which lies ``offset`` elements from an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        return v.splat(builder.load(builder.gep(_place(v, builder, args[1]), [args[2]])))

    return Vector(element)(element, types.int64, types.int64), build


@intrinsic
def zero(context, element):
    """A vector of zeros."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return Vectors(builder, signature.args[0]).zero

    return Vector(element)(element), build


@intrinsic
def store(context, vector, target, offset):
    """Put a vector ``offset`` elements from an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0].element)
        v.store(args[0], _place(v, builder, args[1]), args[2], None)
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64), build


@intrinsic
def store_first(context, vector, target, offset, number):
    """The same of its first ``number`` elements, or as many as a vector has."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0].element)
        v.store(args[0], _place(v, builder, args[1]), args[2], v.first(args[3]))
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64, types.int64), build


def _lane_by_lane(function: Any, name: str) -> None:
    @intrinsic
    def each(context, a, b):
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=("contract",))

        return a(a, b), build

    @overload(function)
    def _(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: each(a, b)
        return None


for _function, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _lane_by_lane(_function, _name)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as each has lanes, their lanes and they themselves exchanged: in log2 steps of two vectors each."""
    n = len(rows)
    half = n // 2
    while half:
        # Blocks of ``half`` lanes are exchanged between vectors that are ``half`` apart.
        low = [i if i % (2 * half) < half else i - half + n for i in range(n)]
        high = [i + half if i % (2 * half) < half else i + n for i in range(n)]
        masks = [ir.Constant(ir.VectorType(INT, n), order) for order in (low, high)]
        rows = list(rows)
        for i in range(n):
            if i % (2 * half) < half:
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        half //= 2
    return rows


def _between(v: Vectors, begin: Any, first: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Where the vector of a row's elements from ``first`` on lies, and the mask of those from ``low`` to before ``high``.

    The row begins at ``begin``. A vector that has no such elements lies where all memory begins: processors take
    hundreds of cycles to find that all that they would load from a page that nobody has is masked.
    """
    builder = v.builder
    before, end = (v.first(builder.sub(bound, first)) for bound in (low, high))
    some = builder.and_(
        builder.icmp_signed("<", low, builder.add(first, INDEX(v.lanes))), builder.icmp_signed("<", first, high)
    )
    place = builder.select(some, builder.add(begin, first), INDEX(0))
    return place, builder.and_(end, builder.not_(before))


@intrinsic
def rows_to_lanes(context, element, source, bounds, number, target, begin, step):
    """Rows of ``number`` elements side by side: ``target[begin + j * step + l]`` is element ``j`` of row ``l``.

    ``bounds``, ``(3, lanes)``, says where each row begins in ``source``, and from where to where it has elements that
    may be read; what lies beyond is zero. Elements are written by whole vectors' lanes of them, perhaps past the last.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        source, target = (_place(v, builder, args[i]) for i in (1, 4))
        table = context.make_array(signature.args[2])(context, builder, args[2]).data
        _, _, _, number, _, begin, step = args

        def entry(row: int, lane: int) -> Any:
            return builder.load(builder.gep(table, [INDEX(row * v.lanes + lane)]))

        with cgutils.for_range_slice(builder, INDEX(0), number, INDEX(v.lanes)) as (j, _):
            rows = [v.load(source, *_between(v, entry(0, i), j, entry(1, i), entry(2, i))) for i in range(v.lanes)]
            for i, column in enumerate(_transposed(builder, rows)):
                place = builder.add(begin, builder.mul(builder.add(j, INDEX(i)), step))
                v.store(column, target, place, None)
        return context.get_dummy_value()

    bounds_type = types.Array(types.int64, 2, "C")
    i = types.int64
    return types.void(element, i, bounds_type, i, i, i, i), build


@intrinsic
def lanes_to_rows(context, element, source, begin, step, number, target, bounds):
    """The way back from :func:`rows_to_lanes`: element ``j`` of row ``l`` is ``source[begin + j * step + l]``."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        source, target = (_place(v, builder, args[i]) for i in (1, 5))
        table = context.make_array(signature.args[6])(context, builder, args[6]).data
        _, _, begin, step, number, _, _ = args

        def entry(row: int, lane: int) -> Any:
            return builder.load(builder.gep(table, [INDEX(row * v.lanes + lane)]))

        with cgutils.for_range_slice(builder, INDEX(0), number, INDEX(v.lanes)) as (j, _):
            places = [builder.add(begin, builder.mul(builder.add(j, INDEX(i)), step)) for i in range(v.lanes)]
            columns = [v.load(source, place, None) for place in places]
            for i, row in enumerate(_transposed(builder, columns)):
                v.store(row, target, *_between(v, entry(0, i), j, entry(1, i), entry(2, i)))
        return context.get_dummy_value()

    bounds_type = types.Array(types.int64, 2, "C")
    i = types.int64
    return types.void(element, i, i, i, i, i, bounds_type), build


@intrinsic
def turn(context, element, source, begin, step, target, end, to, rows, columns):
    """Exchange rows and columns of a block: ``target[end + j * to + i] = source[begin + i * step + j]``.

    For ``i < rows`` and ``j < columns``, or as many of both as a vector has lanes.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        source, target = (_place(v, builder, args[i]) for i in (1, 4))
        _, _, begin, step, _, end, to, rows, columns = args
        sources, targets = (
            [builder.add(first, builder.mul(INDEX(i), each)) for i in range(v.lanes)]
            for first, each in ((begin, step), (end, to))
        )

        def part() -> None:
            mask, other = v.first(columns), v.first(rows)
            # Lines that are not there are the first once more: nobody stores them.
            there = (builder.icmp_signed("<", INDEX(i), rows) for i in range(v.lanes))
            lines = [
                v.load(source, builder.select(here, place, begin), mask)
                for here, place in zip(there, sources, strict=True)
            ]
            for j, (vector, place) in enumerate(zip(_transposed(builder, lines), targets, strict=True)):
                with builder.if_then(builder.icmp_signed("<", INDEX(j), columns)):
                    v.store(vector, target, place, other)

        full = [builder.icmp_signed(">=", number, INDEX(v.lanes)) for number in (rows, columns)]
        with builder.if_else(builder.and_(*full), likely=True) as (then, otherwise):
            with then:
                lines = [v.load(source, place, None) for place in sources]
                for vector, place in zip(_transposed(builder, lines), targets, strict=True):
                    v.store(vector, target, place, None)
            with otherwise:
                part()
        return context.get_dummy_value()

    i = types.int64
    return types.void(element, i, i, i, i, i, i, i, i), build
