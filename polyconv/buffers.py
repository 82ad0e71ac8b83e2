"""Buffers: large blocks of memory that are lent again, once nobody has them any more.

The system hands out memory page by page, each filled with zeros when it is first written to. For a large result, or a
workspace, that takes as long as what is done with it, and is done in every call: C libraries keep small blocks (glibc's
of 32 MiB, at most, and in threads of its own far less), and give large ones back at once. Here those of the last
results and workspaces are kept for the next.

What is kept, and what a call asks for, are never more than 256 MiB together, unless the latter alone is; so no call
that needs much needs more for what others left.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

__all__ = ["KEPT", "WORTH", "lend", "release"]

WORTH = 1 << 20  # bytes of a block that is worth keeping
KEPT = 256 << 20  # bytes that are kept, at most, of blocks that nobody has
_MANY = 64  # blocks that are kept, at most: they are looked through
_SLACK = 1.25  # times what is asked for, that a block may have

_kept: OrderedDict[int, Any] = OrderedDict()  # the one that was given back last comes last
# Blocks come back whenever objects die: in any thread, and in the midst of what is done here, as garbage is collected.
_guard = threading.RLock()


def _keep(block: Any) -> None:
    """Keep a block that came back, and of all of them the latest."""
    with _guard:
        _kept[id(block)] = block
        _forget(KEPT)


def _forget(most: int) -> None:
    """Give back those that came first, until no more bytes than ``most`` are left, and no more than some blocks."""
    total = sum(block.nbytes for block in [*_kept.values()])
    while _kept and (total > most or len(_kept) > _MANY):
        total -= _kept.popitem(last=False)[1].nbytes


class _Loan:
    """A block of memory as long as it is lent: the base of arrays, with the last of which it goes."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self.__array_interface__ = block.__array_interface__

    def __del__(self, keep: Callable[[Any], None] = _keep) -> None:  # named here: modules may be gone when objects go
        keep(self._block)


def lend(size: int, make: Callable[[int], Any]) -> Any:
    """At least ``size`` bytes, kept or made: what NumPy makes an array of, to which they belong from then on.

    ``make(size)`` makes an array of that many bytes.
    """
    with _guard:
        for which in [*reversed(_kept)]:
            block = _kept.get(which)
            if block is not None and size <= block.nbytes <= _SLACK * size and _kept.pop(which, None) is not None:
                return _Loan(block)
        _forget(KEPT - size)
    return _Loan(make(size))


def release() -> None:
    """Give back to the system the memory of results and workspaces that nobody has any more.

    Up to 256 MiB of it are kept for the next ones; other libraries and programs may want it meanwhile.
    """
    with _guard:
        _kept.clear()


def _after_fork() -> None:
    """Whoever had the lock is in the other process."""
    global _guard
    _guard = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
