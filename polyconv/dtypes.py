"""Which dtype products are summed in, and which the result has.

Written against the Array API's ``isdtype``, ``result_type`` and ``sum``, so that every library's own dtypes
pass through. The kinds are ordered: a result never has a lower kind than what it was computed from.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["KINDS", "Dtypes", "bytes_of", "choose", "kind", "largest", "name", "unsigns"]

KINDS = ("bool", "integral", "real floating", "complex floating")


class Dtypes(NamedTuple):
    """``total``: the dtype in which products are summed; ``result``: the dtype of what comes back."""

    total: Any
    result: Any


@lru_cache(typed=True)  # dtypes of two libraries may share a hash, and object to being compared
def name(dtype: Any) -> str:
    """A dtype's name without its library or byte order: ``torch.float32``, ``jax.numpy.float32`` -> ``"float32"``."""
    return str(getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)).rpartition(".")[2]


def bytes_of(dtype: Any) -> int:
    """Bytes of one element, read off the dtype's name: ``float8_e5m2`` has 8 bits, ``complex64`` has 64."""
    bits = re.search(r"\d+", name(dtype))
    return int(bits[0]) // 8 if bits else 1


@lru_cache
def kind(dtype: Any, xp: Any) -> int:
    """The index into :data:`KINDS`, or -1 for what is none of them: strings, objects, dates, or no dtype of ``xp``."""
    try:
        return next((i for i, k in enumerate(KINDS) if dtype is not None and xp.isdtype(dtype, k)), -1)
    except (AttributeError, TypeError, ValueError):
        return -1


def unsigns(given: Any, result: Any, xp: Any) -> bool:
    """Whether signed values would end in an unsigned dtype."""
    return bool(xp.isdtype(given, "signed integer") and xp.isdtype(result, "unsigned integer"))


@lru_cache
def largest(dtype: Any, xp: Any) -> int:
    """The largest magnitude of an integer dtype: 128 for int8, one for bool, zero for what is no integer."""
    if kind(dtype, xp) == 1:
        info = xp.iinfo(dtype)
        return max(-int(info.min), int(info.max))
    return int(kind(dtype, xp) == 0)


def _integer_sum(dtype: Any, xp: Any, device: Any) -> Any:
    """What the library's own ``sum`` makes of an integer dtype: the standard's default integer, or wider."""
    return xp.sum(xp.zeros((1,), dtype=dtype, device=device)).dtype


def _promote(a: Any, b: Any, xp: Any, device: Any) -> Any:
    """The dtype of a product of ``a`` and ``b`` summed up. Raises TypeError for dtypes that do not promote."""
    kinds = kind(a, xp), kind(b, xp)
    floating = max(kinds) >= 2
    if floating and min(kinds) < 2:
        met = a if kinds[0] >= 2 else b  # integers take the floating dtype they meet
        return xp.result_type(met, met)  # in native byte order, as arithmetic leaves it
    try:
        numbers = [d for d, k in zip((a, b), kinds, strict=True) if k] or [xp.int8]  # truths are what they meet
        both = xp.result_type(*numbers)
    except (RuntimeError, TypeError, ValueError):
        both = None
    total = both if floating or both is None else _integer_sum(both, xp, device)
    if total is None or kind(total, xp) != max(1, *kinds):  # NumPy makes int64 and uint64 a float64
        raise TypeError(
            f"x of dtype {name(a)} and w of dtype {name(b)} have no {KINDS[max(1, *kinds)]} dtype in common; "
            f"pass dtype= (say dtype={'float64' if floating else 'int64'!r})"
        )
    return total


@lru_cache
def choose(x: Any, w: Any, requested: Any | None, xp: Any, device: Any) -> Dtypes:
    """The dtypes of a convolution of dtypes ``x`` and ``w``, where the caller asked for ``requested`` or None.

    Floats promote; integers take the float they meet; integers alone are summed as the standard's ``sum``
    does. Half precision and less is summed in float32. Raises TypeError where the request would lose information
    silently: a lower kind, or signed values in an unsigned dtype.
    """
    if requested is None:
        result = _promote(x, w, xp, device)
    else:
        result = requested
        needed, given = max(kind(x, xp), kind(w, xp), 1), kind(result, xp)
        if given < needed:
            raise TypeError(
                f"dtype={name(result)} is {KINDS[given]}, a lower kind than {KINDS[needed]}, "
                f"which x ({name(x)}) and w ({name(w)}) need"
            )
        if unsigns(x, result, xp) or unsigns(w, result, xp):
            raise TypeError(f"dtype={name(result)} is unsigned, and x ({name(x)}) or w ({name(w)}) is signed")
    narrow = kind(result, xp) >= 2 and xp.finfo(result).bits < 32
    wide = xp.complex64 if xp.isdtype(result, "complex floating") else xp.float32
    return Dtypes(wide if narrow else result, result)
