"""Integers as people say them: anything with ``__index__``, NumPy's among them, but no bool, which is a slip."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

__all__ = ["integer", "integers", "is_sequence"]

_MOST = 2**31 - 1  # longer than any axis, and short enough that no address overflows


def integer(value: Any, name: str, least: int, most: float = _MOST) -> int:
    """``value`` as Python's integer. Raises TypeError or ValueError, naming it, if it is none or out of bounds."""
    if isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer, not {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}={value!r} must be at least {least}")
    if number > most:
        raise ValueError(f"{name}={value!r} must be at most {most}")
    return number


def integers(value: Any, name: str, least: int) -> tuple[int, ...]:
    """All entries of a sequence, one or more. Raises TypeError or ValueError, naming the entry, as :func:`integer`."""
    if not len(value):
        raise ValueError(f"{name}={value!r} is empty; give one integer, or one for each spatial axis")
    return tuple(integer(entry, f"{name}[{i}]", least) for i, entry in enumerate(value))


def is_sequence(value: Any) -> bool:
    """A tuple, a list or an array of integers or pairs; not a string, and not a 0-d array, which is a number."""
    if isinstance(value, Sequence):
        return not isinstance(value, str | bytes)
    return hasattr(value, "__len__") and getattr(value, "ndim", 0) in (1, 2)
