"""Waiting awake: a thread that sleeps takes some fifty microseconds to be woken, in which many a loop would be done.

Threads watch counters in memory instead, for a while, and hold up nobody: they do so without Python's lock, and before
every look give way to whoever else wants their processor. Whoever finds that lock taken sleeps as well; so a loop says
when it begins, having let go of it, and only then do others reach for it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["TURNS", "announce", "awaited", "rest"]

TURNS = 1_500  # looks at a counter before a thread goes to sleep after all: about a quarter of a millisecond
_GRACE = 300  # looks, once there is work, until a loop must have begun; what is no loop does not say so

_COUNTER, _GIVEN_WAY = ir.IntType(64), ir.FunctionType(ir.IntType(32), [])
_BEGUN, _GIVE_WAY = "polyconv_begun", "polyconv_give_way"  # what compiled code calls them, in any process
_begun = ctypes.c_int64()  # loops that have begun, on all threads
_system = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
_give_way = _system.SwitchToThread if sys.platform == "win32" else _system.sched_yield
binding.add_symbol(_BEGUN, ctypes.addressof(_begun))
binding.add_symbol(_GIVE_WAY, ctypes.cast(_give_way, ctypes.c_void_p).value)


@intrinsic
def _add(context, counter):
    """Add one to the counter at an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.atomic_rmw("add", builder.inttoptr(args[0], _COUNTER.as_pointer()), _COUNTER(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), build


@intrinsic
def _look(context, counter):
    """What the counter at an address has come to, after others who want the processor."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(cgutils.get_or_insert_function(builder.module, _GIVEN_WAY, _GIVE_WAY), [])
        return builder.load_atomic(builder.inttoptr(args[0], _COUNTER.as_pointer()), "acquire", 8)

    return types.int64(counter), build


@intrinsic
def _loops(context):
    """The address of the counter of loops that have begun."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        known = builder.module.globals.get(_BEGUN)
        return builder.ptrtoint(known or ir.GlobalVariable(builder.module, _COUNTER, _BEGUN), _COUNTER)

    return types.int64(), build


@njit(nogil=True, cache=True)
def announce():
    """Say that a loop begins: the first thing that it does."""
    _add(_loops())


@njit(nogil=True, cache=True)
def rest(ended, posted, known, turns):
    """Count what has ``ended``, and wait for more work to be ``posted`` than is ``known``, and to begin."""
    _add(ended)
    for _ in range(turns):
        if _look(posted) != known:
            begun = _look(_loops())
            for _ in range(_GRACE):
                if _look(_loops()) != begun:
                    return
            return


@njit(nogil=True, cache=True)
def awaited(ended, known):
    """Wait for more to have ``ended`` than is ``known``, and say whether it has."""
    turns = TURNS
    while turns > 0 and _look(ended) == known:
        turns -= 1
    return turns > 0
