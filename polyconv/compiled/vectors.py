"""Vectors of a processor as numbers in compiled Python: loaded, added, multiplied and stored whole.

``load`` gives one, ``+``, ``-`` and ``*`` work lane by lane, and so loops over vectors read as loops over numbers do.
Arrays are addresses, as in :mod:`polyconv.compiled.microkernel`; ``element`` is a number whose type alone matters.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from .microkernel import VECTOR_BYTES, Vectors

__all__ = ["lanes_of", "lanes_to_rows", "load", "load_first", "rows_to_lanes", "splat", "store", "store_first", "zero"]

_INT, _INDEX = ir.IntType(32), ir.IntType(64)


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
        return _INDEX(_lanes(signature.args[0]))

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
        masks = [ir.Constant(ir.VectorType(_INT, n), order) for order in (low, high)]
        rows = list(rows)
        for i in range(n):
            if i % (2 * half) < half:
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        half //= 2
    return rows


def _between(v: Vectors, first: Any, low: Any, high: Any) -> Any:
    """The mask of the lanes that hold what lies from ``low`` to before ``high``, where the first lane is ``first``."""
    builder = v.builder
    begin, end = (v.first(builder.sub(bound, first)) for bound in (low, high))
    return builder.and_(end, builder.not_(begin))


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
            return builder.load(builder.gep(table, [_INDEX(row * v.lanes + lane)]))

        with cgutils.for_range_slice(builder, _INDEX(0), number, _INDEX(v.lanes)) as (j, _):
            rows = [
                v.load(source, builder.add(entry(0, i), j), _between(v, j, entry(1, i), entry(2, i)))
                for i in range(v.lanes)
            ]
            for i, column in enumerate(_transposed(builder, rows)):
                place = builder.add(begin, builder.mul(builder.add(j, _INDEX(i)), step))
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
            return builder.load(builder.gep(table, [_INDEX(row * v.lanes + lane)]))

        with cgutils.for_range_slice(builder, _INDEX(0), number, _INDEX(v.lanes)) as (j, _):
            places = [builder.add(begin, builder.mul(builder.add(j, _INDEX(i)), step)) for i in range(v.lanes)]
            columns = [v.load(source, place, None) for place in places]
            for i, row in enumerate(_transposed(builder, columns)):
                mask = _between(v, j, entry(1, i), entry(2, i))
                v.store(row, target, builder.add(entry(0, i), j), mask)
        return context.get_dummy_value()

    bounds_type = types.Array(types.int64, 2, "C")
    i = types.int64
    return types.void(element, i, i, i, i, i, bounds_type), build
