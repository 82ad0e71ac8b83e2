"""Small matrices as code: what they do to vectors is written out, number by number, when it is compiled.

The transforms of Winograd's method are full of zeros and ones, and of rows and columns that differ in signs alone,
since points come in pairs, ``a`` and ``-a``. None of that costs anything where it is known in time (Frigo, "A fast
Fourier transform compiler", PLDI 1999, of Fourier transforms, which :mod:`polyconv.compiled.butterflies` writes so).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from .vectors import INDEX, Vectors

__all__ = ["Matrices", "transform"]

Rows = tuple[tuple[float, ...], ...]


class _Known(types.Type):
    """Matrices with these rows, and no others."""

    def __init__(self, matrices: tuple[Rows, ...]) -> None:
        self.matrices = matrices
        super().__init__(name=f"Matrices({hashlib.sha256(repr(matrices).encode()).hexdigest()})")


register_model(_Known)(models.OpaqueModel)


class Matrices:
    """Some matrices, whose numbers are their type in compiled code, and their value nothing.

    They are handed to a function by themselves: in a tuple, numba would look for the type of all of it in every call.
    """

    def __init__(self, matrices: Iterable[Iterable[Iterable[float]]]) -> None:
        self._numba_type_ = _Known(tuple(tuple(tuple(map(float, row)) for row in rows) for rows in matrices))


@unbox(_Known)
def _(kind: Any, matrices: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two rows differ in signs alone, and in some of them, but not in all."""
    pairs = [*zip(a, b, strict=True)]
    return all(abs(i) == abs(j) for i, j in pairs) and {i * j > 0 for i, j in pairs if i} == {True, False}


def _apart(a: Sequence[float], b: Sequence[float]) -> tuple[list[float], list[float]]:
    """What two such rows have in common, and what they have of opposite signs."""
    return [i * (i == j) for i, j in zip(a, b, strict=True)], [i * (i != j) for i, j in zip(a, b, strict=True)]


class _Writer:
    """Sums of vectors, times numbers that are known."""

    def __init__(self, v: Vectors) -> None:
        self.v, self.builder = v, v.builder

    def number(self, factor: float) -> Any:
        """A vector of one number."""
        return ir.Constant(self.v.type, [factor] * self.v.lanes)

    def sum(self, factors: Sequence[float], x: Sequence[Any]) -> Any:
        """The sum of vectors, each times its factor; one that needs no product comes first."""
        total = None
        for factor, vector in sorted(zip(factors, x, strict=True), key=lambda term: (abs(term[0]) != 1, -term[0])):
            if factor == 0:
                continue
            number = self.number(factor)
            if total is None:
                total = vector if factor == 1 else self.builder.fmul(vector, number)
            elif abs(factor) == 1:
                total = (self.builder.fadd if factor == 1 else self.builder.fsub)(total, vector)
            else:
                total = self.v.multiply_add(vector, number, total)
        return self.v.zero if total is None else total

    def product(self, rows: Sequence[Sequence[float]], x: Sequence[Any]) -> list[Any]:
        """A matrix times vectors. Of two columns that are alike, and of two rows, what they share is summed once."""
        columns = [*zip(*rows, strict=True)]
        for i, j in combinations(range(len(columns)), 2):
            if _alike(columns[i], columns[j]):
                x = [*x]
                x[i], x[j] = self.builder.fadd(x[i], x[j]), self.builder.fsub(x[i], x[j])
                columns[i], columns[j] = map(tuple, _apart(columns[i], columns[j]))
        rows = [*zip(*columns, strict=True)]
        found: dict[int, Any] = {}
        for i, j in combinations(range(len(rows)), 2):
            if not {i, j} & found.keys() and _alike(rows[i], rows[j]):
                even, odd = (self.sum(part, x) for part in _apart(rows[i], rows[j]))
                found[i], found[j] = self.builder.fadd(even, odd), self.builder.fsub(even, odd)
        return [found[i] if i in found else self.sum(row, x) for i, row in enumerate(rows)]


@intrinsic
def transform(context, element, matrices, which, vectors, source, begin, step, target, end, to, lanes, height, past):
    """Multiply by one of some matrices.

    That is ``A``, the one ``which`` of :class:`Matrices`, and for ``i < height``, ``l < lanes`` and over all ``j``::

        target[end + i * to + l] = sum A[i, j] * source[begin + j * step + l]

    The tuple ``vectors`` has as many entries as vectors have ``lanes`` in all, or more. ``source`` and ``target`` are
    addresses, of numbers of the type of ``element``, ``begin``, ``end`` and steps are in elements. ``past`` is as in
    :func:`polyconv.compiled.microkernel.multiply`.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        writer = _Writer(v)
        source, target = (builder.inttoptr(args[i], v.type.element.as_pointer()) for i in (4, 7))
        which, begin, step, end, to, lanes, height = (
            context.cast(builder, args[i], signature.args[i], types.int64) for i in (2, 5, 6, 8, 9, 10, 11)
        )

        def write(rows: Rows, whole: bool) -> None:
            steps = [builder.add(begin, builder.mul(INDEX(j), step)) for j in range(len(rows[0]))]
            places = [builder.add(end, builder.mul(INDEX(i), to)) for i in range(len(rows))]
            for i in range(len(signature.args[3])):
                first = INDEX(i * v.lanes)
                mask = None if whole else v.first(builder.sub(lanes, first))
                x = [v.load(source, builder.add(place, first), mask) for place in steps]
                for row, (vector, place) in enumerate(zip(writer.product(rows, x), places, strict=True)):
                    there = builder.add(place, first)
                    if whole:
                        v.store(vector, target, there, None, past=bool(len(signature.args[12])))
                        continue
                    with builder.if_then(builder.icmp_signed("<", INDEX(row), height)):
                        v.store(vector, target, there, mask)

        def choose(rows: Rows) -> None:
            full = builder.icmp_signed(">=", lanes, INDEX(len(signature.args[3]) * v.lanes))
            high = builder.icmp_signed(">=", height, INDEX(len(rows)))
            with builder.if_else(builder.and_(full, high), likely=True) as (then, otherwise):
                with then:
                    write(rows, True)
                with otherwise:
                    write(rows, False)

        known = signature.args[1].matrices
        for rows in dict.fromkeys(known):
            asked = [builder.icmp_signed("==", which, INDEX(i)) for i, other in enumerate(known) if other == rows]
            with builder.if_then(reduce(builder.or_, asked)):
                choose(rows)
        return context.get_dummy_value()

    return types.void(
        element, matrices, which, vectors, source, begin, step, target, end, to, lanes, height, past
    ), build
