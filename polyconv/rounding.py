"""Rounding errors: what a method's result is expected to be off by, and how much of that is let pass.

Errors are relative and root mean square, ``sqrt(mean |y - exact|^2 / mean |exact|^2)``, for an image and a kernel of
independent numbers around zero. Roundings are as good as independent too, so their squares add up: a sum of ``n``
terms is off by some roundings of its own terms and by a share of the ``n`` roundings of its partial sums (Higham,
"Accuracy and stability of numerical algorithms" (2002), section 2.8). How large a share depends on how a BLAS cuts its
sums; the numbers here were fitted to OpenBLAS on a processor with wide registers.
"""

from __future__ import annotations

import math
from functools import lru_cache

from .arrays import epsilon
from .problem import ConvProblem

__all__ = ["BOUNDS", "TF32", "direct", "roundoff", "summed"]

TF32 = 2.0**-11 * math.sqrt(2 / 3)
"""The error of a product whose factors are rounded to 11 bits: each by up to one part in ``2**11``, independently."""

BOUNDS = {"float32": 2e-6, "complex64": 2e-6, "float64": 1e-13, "complex128": 1e-13}
"""The predicted error up to which ``accuracy="fast"`` admits a method that is not direct summation, by dtype."""


@lru_cache
def roundoff(dtype: str) -> float:
    """Half the distance from one to the next number; zero for integers, which are not rounded."""
    return epsilon(dtype) / 2


def summed(terms: int, own: float) -> float:
    """The error of a sum of ``terms`` in roundings, each term having ``own`` squared roundings of its own."""
    return math.sqrt(own + 0.09 * min(terms, 400))


def direct(p: ConvProblem) -> float:
    """The predicted error of direct summation, whichever way its terms are ordered."""
    return roundoff(p.dtype) * summed(p.channels * p.taps, 0.1)
