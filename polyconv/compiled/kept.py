"""Compiled code that numba keeps on disk, for the next process to load.

numba compiles a function anew when the file that it is written in has changed. These functions are made of each other,
across files, and would go on with what others were before a change. So each has a stamp of all sources here in its
name, which numba calls its files by.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

__all__ = ["kept", "stamp", "stamped"]


def stamp(folder: Path) -> str:
    """What changes if any source in a folder does: eight digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


_HERE = Path(__file__).parent
_STAMP = stamp(_HERE)


def stamped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, whose compiled code will be kept under the sources' stamp."""
    function.__qualname__ += f"_{_STAMP}"
    return function


def kept(*signature: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As numba's ``njit``, of what is kept on disk."""
    return lambda function: njit(*signature, cache=True, **options)(stamped(function))


def _clear_up() -> None:
    """Remove what an earlier version left, which nobody will ask for; where that may not be, it is in nobody's way."""
    for path in _HERE.glob("__pycache__/*.nb[ci]"):
        if _STAMP not in path.name:
            with contextlib.suppress(OSError):
                path.unlink()


_clear_up()
