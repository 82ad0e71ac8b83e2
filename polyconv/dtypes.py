"""Which dtype products are summed in, and which the result has.

Written against the Array API's ``isdtype``, ``result_type`` and ``sum``, so that every library's own dtypes
pass through. The kinds are ordered: a result never has a lower kind than what it was computed from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["KINDS", "Dtypes", "choose", "kind", "name"]

KINDS = ("bool", "integral", "real floating", "complex floating")
_HALVES = ("float16", "bfloat16")


class Dtypes(NamedTuple):
    """``total``: the dtype in which products are summed; ``result``: the dtype of what comes back."""

    total: Any
    result: Any


def name(dtype: Any) -> str:
    """A dtype's name without its library or byte order: ``torch.float32`` -> ``"float32"``."""
    return str(getattr(dtype, "name", None) or dtype).rpartition(".")[2]


def kind(dtype: Any, xp: Any) -> int:
    """The index into :data:`KINDS`, or -1 for a dtype that is none of them (strings, objects, dates)."""
    return next((i for i, k in enumerate(KINDS) if xp.isdtype(dtype, k)), -1)


def _integer_sum(dtype: Any, xp: Any, device: Any) -> Any:
    """What the library's own ``sum`` makes of an integer dtype: the standard's default integer, or wider."""
    return xp.sum(xp.zeros((1,), dtype=dtype, device=device)).dtype


def _promote(a: Any, b: Any, xp: Any, device: Any) -> Any:
    """The dtype of a product of ``a`` and ``b`` summed up. Raises TypeError for integers that share no dtype."""
    kinds = kind(a, xp), kind(b, xp)
    if max(kinds) >= 2 and min(kinds) < 2:
        return a if kinds[0] >= 2 else b  # integers take the floating dtype they meet
    if max(kinds) >= 2:
        return xp.result_type(a, b)
    a, b = (xp.uint8 if xp.isdtype(d, "bool") else d for d in (a, b))
    try:
        both = xp.result_type(a, b)
    except (TypeError, RuntimeError):
        both = None
    if both is None or not xp.isdtype(both, "integral"):
        raise TypeError(
            f"x of dtype {name(a)} and w of dtype {name(b)} have no integer dtype in common; "
            "pass dtype= (say dtype='int64' or dtype='float64')"
        )
    return _integer_sum(both, xp, device)


def choose(x: Any, w: Any, requested: Any | None, xp: Any, device: Any) -> Dtypes:
    """The dtypes of a convolution of dtypes ``x`` and ``w``, where the caller asked for ``requested`` or None.

    Floats promote; integers take the float they meet; integers alone are summed as the standard's ``sum``
    does. Half precision is summed in float32. Raises TypeError where the request would lose information
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
        signed = xp.isdtype(x, "signed integer") or xp.isdtype(w, "signed integer")
        if signed and xp.isdtype(result, "unsigned integer"):
            raise TypeError(f"dtype={name(result)} is unsigned, and x ({name(x)}) or w ({name(w)}) is signed")
    return Dtypes(xp.float32 if name(result) in _HALVES else result, result)
