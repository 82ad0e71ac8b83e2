"""How many bytes a call holds at once."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import polyconv as pc


def peak_of(call: Any, *args: Any, warm: bool = True) -> tuple[int, Any]:
    """The most bytes that ``call`` held at once, beyond what stood before it, and what it returned.

    ``warm``, what it caches is cached before; else the tables that it makes count as well.
    """
    if warm:
        call(*args)
    pc.release_memory()  # nothing is lent from before
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        y = call(*args)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, y


def peak_beside_result(call: Any, *args: Any, warm: bool = True) -> int:
    """The most bytes that ``call`` held at once, beyond what stood before it and what it returned."""
    peak, y = peak_of(call, *args, warm=warm)
    return int(peak - y.nbytes)
