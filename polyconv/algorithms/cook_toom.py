"""Winograd's transforms, generated: the Cook-Toom construction in exact fractions.

Convolving ``r`` taps with ``m + r - 1`` inputs is a product of polynomials in disguise. Evaluate both factors in
``m + r - 1`` points, of which infinity is one, multiply point by point, and interpolate: that product takes
``m + r - 1`` multiplications in place of ``m * r``. Transposed, the same matrices yield ``m`` outputs of a
cross-correlation (Winograd, "Arithmetic complexity of computations" (1980); Lavin & Gray, "Fast algorithms for
convolutional neural networks", arXiv:1509.09308)::

    y = AT [(G g) * (BT d)]

The matrices are exact, but floating-point numbers are not, and the points decide how much is lost (Barabasz et al.,
"Error analysis and improving the accuracy of Winograd convolution for deep neural networks", arXiv:1803.10986).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

from ..integers import integer

__all__ = ["Matrix", "Transforms", "amplification", "exact_points", "integer_points", "winograd_transforms"]

Matrix = tuple[tuple[Fraction, ...], ...]


class Transforms(NamedTuple):
    """The matrices of ``F(m, r)``, rows of exact fractions.

    ``AT`` is ``m x (m + r - 1)``, ``G`` is ``(m + r - 1) x r`` and ``BT`` is square of ``m + r - 1``.
    """

    AT: Matrix
    G: Matrix
    BT: Matrix


def winograd_transforms(m: int, r: int, points: Iterable[int | float | str | Fraction] | None = None) -> Transforms:
    """The transforms of ``F(m, r)``: ``m`` outputs of a correlation with ``r`` taps in ``m + r - 1`` products.

    Parameters
    ----------
    m, r
        Outputs and taps, each at least 1.
    points
        The ``m + r - 2`` points of evaluation beside infinity, all different: integers, fractions, strings such as
        ``"1/2"``, or floats, which are taken as the exact binary fractions that they are. By default, points whose
        rounding errors are small.

    Returns
    -------
    Transforms
        ``AT``, ``G`` and ``BT`` with ``y = AT [(G g) * (BT d)]`` exactly.

    Raises
    ------
    ValueError, TypeError
        For too few points or too many, one that is given twice, or one that is no rational number.

    Examples
    --------
    >>> t = winograd_transforms(2, 3, points=(0, 1, -1))
    >>> [[str(a) for a in row] for row in t.AT]
    [['1', '1', '1', '0'], ['0', '1', '-1', '1']]
    """
    m, r = integer(m, "m", 1), integer(r, "r", 1)
    number = m + r - 2
    exact = spread_points(number) if points is None else exact_points(points)
    if len(exact) != number:
        raise ValueError(f"F({m}, {r}) takes {number} points besides infinity, m + r - 2, and points has {len(exact)}")
    if twice := [str(point) for i, point in enumerate(exact) if point in exact[:i]]:
        raise ValueError(f"points={', '.join(map(str, exact))} has {twice[0]} twice; all must differ")
    return _transforms(m, r, exact)


def exact_points(points: Iterable[int | float | str | Fraction]) -> tuple[Fraction, ...]:
    """The points as fractions of Python's own integers, which never run over. Raises TypeError for what is none."""
    if not isinstance(points, Iterable):
        raise TypeError(f"points={points!r} must be a sequence of numbers, not {type(points).__name__}")
    return tuple(map(_exact, points))


def _exact(point: int | float | str | Fraction) -> Fraction:
    try:
        exact = Fraction(point)
        return Fraction(int(exact.numerator), int(exact.denominator))  # NumPy's integers would stay what they are
    except (OverflowError, TypeError, ValueError, ZeroDivisionError):  # infinity, arrays, words, 1/0
        raise TypeError(f"the point {point!r} is no rational number") from None


@lru_cache
def _transforms(m: int, r: int, points: tuple[Fraction, ...]) -> Transforms:
    others = [[b for b in points if b != a] for a in points]
    scales = [math.prod((a - b for b in rest), start=Fraction(1)) for a, rest in zip(points, others, strict=True)]
    n = len(points) + 1
    at = [[*(a**k for a in points), Fraction(k == m - 1)] for k in range(m)]
    g = [[a**k / scale for k in range(r)] for a, scale in zip(points, scales, strict=True)]
    g.append([Fraction(k == r - 1) for k in range(r)])
    bt = [_with_roots(rest, n) for rest in others] + [_with_roots(points, n)]
    return Transforms(*(tuple(map(tuple, rows)) for rows in (at, g, bt)))


def _with_roots(roots: Iterable[Fraction], length: int) -> list[Fraction]:
    """The coefficients of ``prod (x - root)``, constant first, filled up with zeros to ``length``."""
    polynomial = [Fraction(1)]
    for root in roots:
        zero = Fraction(0)
        polynomial = [high - root * low for high, low in zip([zero, *polynomial], [*polynomial, zero], strict=True)]
    return polynomial + [Fraction(0)] * (length - len(polynomial))


@lru_cache
def spread_points(number: int) -> tuple[Fraction, ...]:
    """Points that lose little to rounding: spread evenly over the circle that the number line and infinity close.

    ``tan`` maps equal angles to such points; drawing them together towards one, by a power of 3/4, makes up for
    infinity's being exact. Rounded to small fractions, three, five and seven points are 0, +-1; 0, +-2/3, +-3/2; and
    0, +-1/2, +-1, +-2. From these, a local search over all fractions of denominators up to eight found nothing for up
    to nine points that errs less by more than a fortieth, in the measure of :func:`amplification`.
    """
    angles = (math.pi * (k / (number + 1) - 0.5) for k in range(1, number + 1))
    tangents = (math.tan(angle) for angle in angles)
    drawn = (math.copysign(abs(t) ** 0.75, t) for t in tangents)
    return tuple(Fraction(t).limit_denominator(max(6, number - 2)) for t in drawn)


def integer_points(number: int) -> tuple[Fraction, ...]:
    """0, 1, -1, 2, -2, ...: points whose transforms scale to small integers, for exact arithmetic."""
    both_signs = (Fraction(sign * i) for i in count(1) for sign in (1, -1))
    return tuple(islice((point for points in ([Fraction(0)], both_signs) for point in points), number))


@lru_cache
def amplification(t: Transforms) -> float:
    """By how much the transforms of one axis enlarge rounding errors, over those of the products alone.

    With independent data and roundings, point ``i`` of the product has the variance ``sum G_ij^2 * sum BT_ij^2`` and
    rounding errors in proportion; the output gathers them by ``AT_ki^2``, and has the variance ``r`` itself. The
    amplifications of several axes multiply.
    """
    kernel, image = ([float(sum(a * a for a in row)) for row in matrix] for matrix in (t.G, t.BT))
    gathered = sum(float(a * a) * g * b for row in t.AT for a, g, b in zip(row, kernel, image, strict=True))
    return math.sqrt(gathered / (len(t.AT) * len(t.G[0])))
