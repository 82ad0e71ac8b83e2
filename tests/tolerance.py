"""How far a method that transforms its blocks may be off: what its tile, the dtype and the number of terms entail.

Direct summation has a rigorous bound, which each test states for itself. Winograd's method and Fourier transforms have
errors in proportion to the largest data of a block instead, wherever in it they stand. What a plan predicts is the
root mean square over independent numbers around zero, so a single output may be off by some times as much.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from strategies import Case

import polyconv as pc

# Twice the largest errors that were found, 3.2 and 3.3, in units of what :func:`beyond_direct` multiplies this with:
# among 25 000 random calls of ``strategies.cases`` by Winograd's method and 40 000 by Fourier transforms, in float32 to
# complex128, half of them with whole numbers and the others with normal deviates, numbers of one sign or equal ones.
FACTOR = {"winograd": 6.4, "fft": 6.6}


def beyond_direct(plan: pc.Plan, a: Any, b: Any, *, terms: int | None = None) -> float:
    """How much further than by direct summation the plan's algorithm may be off; zero for direct summation itself.

    ``a`` and ``b`` are what is convolved, image and kernel, and ``terms`` the products that an output sums, by default
    the plan's. What of these is independent sums to the square root of ``terms`` times one product, and what they have
    in common, their mean, to ``terms`` times.
    """
    if plan.algorithm not in FACTOR or not (np.size(a) and np.size(b)):
        return 0.0
    terms = terms or plan.call.problem.channels * plan.call.problem.taps
    largest, mean = (float(np.prod([np.abs(of(np.asarray(each))) for each in (a, b)])) for of in (_largest, np.mean))
    return FACTOR[plan.algorithm] * plan.chosen.error * (math.sqrt(terms) * largest + terms * mean)


def settled(y: Any, plan: pc.Plan, a: Any, b: Any, *, terms: int | None = None) -> Any:
    """A result that is made of whole numbers, without its rounding errors: these are no larger than they may be.

    Where they may not be at all, it comes back as it is.
    """
    beyond = beyond_direct(plan, a, b, terms=terms)
    if not beyond:
        return y
    assert beyond < 0.5, "too much to tell one whole number from the next"
    nearest = y.round()
    error = float(abs(y - nearest).max())
    assert error <= beyond, f"{plan.algorithm} is off by {error} where {beyond} is allowed"
    return nearest


def within_rounding(case: Case, y: np.ndarray, algorithm: str, dtype: np.dtype, beyond: float) -> None:
    """Each output is off by no more than direct summation in any order may be (Higham 2002, section 3.1).

    Methods that transform blocks may be off by so much ``beyond``.
    """
    expected, magnitude = case.expected(), case.magnitude()
    complex_factor = 4 if np.dtype(dtype).kind == "c" else 1
    total = np.float32 if np.finfo(dtype).bits == 16 else dtype
    bound = complex_factor * case.terms * np.finfo(total).eps * magnitude + beyond
    if total is not dtype:  # the one rounding at the end
        bound = bound + np.finfo(dtype).eps * (np.abs(expected).astype(float) + bound) + np.finfo(dtype).tiny
    error = np.abs(y - expected.astype(np.result_type(dtype, np.float64)))
    worst = np.max(error - bound, initial=-1.0)
    assert worst <= 0, f"{algorithm}: an error of {np.max(error)} where {np.max(bound)} is allowed"


def _largest(a: np.ndarray) -> Any:
    return np.max(np.abs(a))
