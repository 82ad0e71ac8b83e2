"""Fourier transforms in vectors: of as many signals at once as a vector has lanes, which never meet.

A transform of ``n = r * s`` points is ``s`` short ones of ``r`` points, factors, and ``r`` of ``s`` points (Cooley &
Tukey 1965), and each short one is straight-line code, written here by the same rule (Frigo, "A fast Fourier transform
compiler", PLDI 1999, calls them codelets). A complex number is two vectors, one after the other in memory.
"""

from __future__ import annotations

import cmath
import math
from functools import cache
from typing import Any

from llvmlite import ir
from numba import cfunc, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from .kept import kept, stamped
from .vectors import INDEX, Vectors, lanes_of

__all__ = ["RADICES", "code", "transform"]


class _Complex:
    """Arithmetic with pairs of vectors."""

    def __init__(self, v: Vectors) -> None:
        self.v, self.builder = v, v.builder

    def add(self, a: Any, b: Any) -> Any:
        return tuple(self.builder.fadd(i, j) for i, j in zip(a, b, strict=True))

    def sub(self, a: Any, b: Any) -> Any:
        return tuple(self.builder.fsub(i, j) for i, j in zip(a, b, strict=True))

    def number(self, value: float) -> Any:
        return ir.Constant(self.v.type, [value] * self.v.lanes)

    def scaled(self, a: Any, value: float, more: Any = None) -> Any:
        """``a * value + more``."""
        if more is None:
            return tuple(self.builder.fmul(i, self.number(value)) for i in a)
        return tuple(self.v.multiply_add(i, self.number(value), j) for i, j in zip(a, more, strict=True))

    def times(self, a: Any, re: Any, im: Any) -> Any:
        """``a * (re + i im)``, of vectors."""
        real = self.v.multiply_add(a[0], re, self.builder.fneg(self.builder.fmul(a[1], im)))
        return real, self.v.multiply_add(a[0], im, self.builder.fmul(a[1], re))

    def turned(self, a: Any, eighths: float) -> Any:
        """``a`` times the root of unity that is so many eighths of a turn, backwards."""
        quarter = {0: a, 2: (a[1], self._minus(a[0])), 4: (self._minus(a[0]), self._minus(a[1])),
                   6: (self._minus(a[1]), a[0])}  # fmt: skip
        if eighths in quarter:
            return quarter[int(eighths)]
        root = cmath.exp(-2j * math.pi * eighths / 8)
        return self.times(a, self.number(root.real), self.number(root.imag))

    def _minus(self, a: Any) -> Any:
        return self.builder.fneg(a)

    def dft(self, x: list[Any]) -> list[Any]:
        """The transform of a few points."""
        n = len(x)
        r = next((r for r in (4, 2, 3, 5) if n % r == 0), n)
        if n == 1:
            return x
        if n == 2:
            return [self.add(*x), self.sub(*x)]
        if r == n and n % 2:
            return self._prime(x)
        if n == 4:
            r = 2
        s = n // r
        y = [None] * n
        columns = [self.dft(x[i::s]) for i in range(s)]
        for k in range(r):
            row = [self.turned(column[k], 8 * i * k / n) for i, column in enumerate(columns)]
            y[k::r] = self.dft(row)
        return y

    def _prime(self, x: list[Any]) -> list[Any]:
        """An odd number of points: those that lie opposite each other share their cosines, and their sines."""
        n = len(x)
        sums = [self.add(x[j], x[n - j]) for j in range(1, n // 2 + 1)]
        differences = [self.sub(x[j], x[n - j]) for j in range(1, n // 2 + 1)]
        y = [x[0]] * n
        for total in sums:
            y[0] = self.add(y[0], total)
        for k in range(1, n // 2 + 1):
            even, odd = x[0], None
            for j, (total, difference) in enumerate(zip(sums, differences, strict=True), 1):
                even = self.scaled(total, math.cos(2 * math.pi * j * k / n), even)
                odd = self.scaled(difference, math.sin(2 * math.pi * j * k / n), odd)
            assert odd is not None
            turned = (odd[1], self._minus(odd[0]))
            y[k], y[n - k] = self.add(even, turned), self.sub(even, turned)
        return y


@intrinsic
def _stage(
    context, element, radix, source, s_base, s_next, s_step, s_turn, target, t_base, t_next, t_step, t_turn, twiddles, count,
):  # fmt: skip
    """``count`` transforms of as many points as ``radix`` has, each ``next`` from the one before, of points a ``step`` apart.

    Offsets are in elements; the real part lies ``turn`` further on, which is a vector where both parts change places.
    What a transform gives is multiplied by ``twiddles``, ``(count, radix)`` complex numbers, unless these are None.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(builder, signature.args[0])
        c, lanes = _Complex(v), INDEX(v.lanes)
        source, target = (builder.inttoptr(args[i], v.type.element.as_pointer()) for i in (2, 7))
        s_base, s_next, s_step, s_turn = args[3:7]
        t_base, t_next, t_step, t_turn, _, count = args[8:]
        s_other, t_other = (builder.sub(lanes, turn) for turn in (s_turn, t_turn))
        plain = isinstance(signature.args[12], types.NoneType)
        factors = None if plain else builder.inttoptr(args[12], v.type.element.as_pointer())
        with cgutils.for_range(builder, count) as loop:
            begin, end = (
                builder.add(base, builder.mul(loop.index, step)) for base, step in ((s_base, s_next), (t_base, t_next))
            )
            points = []
            for i in range(len(radix)):
                place = builder.add(begin, builder.mul(INDEX(i), s_step))
                points.append(tuple(v.load(source, builder.add(place, part), None) for part in (s_turn, s_other)))
            for k, value in enumerate(c.dft(points)):
                if factors is not None and k:
                    first = builder.add(builder.mul(loop.index, INDEX(2 * len(radix))), INDEX(2 * k))
                    re, im = (
                        v.splat(builder.load(builder.gep(factors, [builder.add(first, INDEX(part))])))
                        for part in (0, 1)
                    )
                    value = c.times(value, re, im)
                place = builder.add(end, builder.mul(INDEX(k), t_step))
                for part, vector in zip((t_turn, t_other), value, strict=True):
                    v.store(vector, target, builder.add(place, part), None)
        return context.get_dummy_value()

    i = types.int64
    return types.void(element, radix, i, i, i, i, i, i, i, i, i, i, twiddles, i), build


RADICES = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16)
"""Points of the transforms that are written as straight-line code."""


@kept(nogil=True)
def _stages(
    element, radix, source, s_base, s_next, s_step, s_turn, target, t_base, t_next, t_step, t_turn, twiddles, count,
):  # fmt: skip
    """:func:`_stage` for any of ``RADICES``."""
    if radix == 1:
        _stage(element, (0,) * 1, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 2:
        _stage(element, (0,) * 2, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 3:
        _stage(element, (0,) * 3, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 4:
        _stage(element, (0,) * 4, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 5:
        _stage(element, (0,) * 5, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 6:
        _stage(element, (0,) * 6, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 8:
        _stage(element, (0,) * 8, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 9:
        _stage(element, (0,) * 9, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 10:
        _stage(element, (0,) * 10, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 12:
        _stage(element, (0,) * 12, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip
    elif radix == 16:
        _stage(element, (0,) * 16, source, s_base, s_next, s_step, s_turn,
               target, t_base, t_next, t_step, t_turn, twiddles, count)  # fmt: skip


@stamped
def _transform(element, r, s, twiddles, source, s_base, s_step, target, t_base, t_step, turn, scratch):
    """:func:`transform` with all that it is told."""
    lanes, zero = lanes_of(element), int64(0)  # which numba takes for any other, and compiles nothing for it alone
    _stages(element, r, source, s_base, s_step, s * s_step, turn,
            scratch, zero, 2 * lanes, 2 * lanes * s, zero, twiddles, s)  # fmt: skip
    _stages(element, s, scratch, zero, 2 * lanes * s, 2 * lanes, zero,
            target, t_base, t_step, r * t_step, turn, None, r)  # fmt: skip


@cache
def code(dtype: str) -> int:
    """Where the transforms of a dtype are, compiled: there is much of them, and so they are once, for all who call."""
    found: int = cfunc(types.void(getattr(types, dtype), *[types.int64] * 11), cache=True)(_transform).address
    return found


@intrinsic
def _call(
    context, code, element, r, s, twiddles, source, s_base, s_step, target, t_base, t_step, turn, scratch
):  # fmt: skip
    """Call what :func:`code` found."""
    numbers = [types.int64] * 11

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, element, *numbers), build


@kept(nogil=True)
def transform(element, plan, source, s_base, s_step, target, t_base, t_step, turn, scratch):
    """Transform points that lie ``s_step`` elements apart, to where they are to lie ``t_step`` apart.

    Forwards, or backwards where ``turn`` is a vector's length and not zero: then real and imaginary parts change
    places before and after. ``plan`` is how many points there are, two factors ``r`` and ``s`` of that, the address of
    ``exp(-2 pi i j k / (r s))`` for ``j < s`` and ``k < r``, and that of the code for this type. ``scratch`` has room for
    all points; source and target may be the same.
    """
    _call(
        plan[4], element, plan[1], plan[2], plan[3], source, s_base, s_step, target, t_base, t_step, turn, scratch
    )  # fmt: skip
