"""Numbers that all threads see, and what compiled code asks of the system: to give way, to sleep, where it is.

Whoever waits in compiled code needs neither Python nor its lock. The numbers are in memory that stays where it is as long
as the process lives; each is told by its offset in bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "LINE",
    "LINES",
    "NUMBER",
    "PLACES_THREADS",
    "add",
    "clear",
    "give_way",
    "lock",
    "look",
    "number",
    "processor",
    "put",
    "release",
    "take",
]

LINE, LINES = 64, 1100
"""Bytes of a line of the cache, which a number that many threads change had better have to itself; and how many."""

_memory = ctypes.create_string_buffer((LINES + 1) * LINE)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_memory))  # a thread may look there when all else is gone
_address = -(-ctypes.addressof(_memory) // LINE) * LINE


def number(which: int) -> ctypes.c_int64:
    """A number as Python sees it."""
    return ctypes.c_int64.from_address(_address + which)


def clear() -> None:
    """Set all to zero."""
    ctypes.memset(_address, 0, LINES * LINE)


# -- functions of the system's and of Python's ---------------------------------------------------------------

_system = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
PLACES_THREADS = hasattr(_system, "sched_getcpu") and hasattr(os, "sched_setaffinity")
"""Whether the system says where threads are, and has them elsewhere if it is told to."""

lock = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
"""The address of a new lock, of Python's own kind, which every system has."""

# What compiled code calls them, in any process.
_NUMBERS, _GIVE_WAY, _TAKE, _RELEASE, _WHERE = (
    f"polyconv_{name}" for name in ("numbers", "give_way", "take", "release", "where")
)
_functions = {
    _GIVE_WAY: _system.SwitchToThread if sys.platform == "win32" else _system.sched_yield,
    _TAKE: ctypes.pythonapi.PyThread_acquire_lock,
    _RELEASE: ctypes.pythonapi.PyThread_release_lock,
}
if PLACES_THREADS:
    _functions[_WHERE] = _system.sched_getcpu
binding.add_symbol(_NUMBERS, _address)
for _name, _function in _functions.items():
    binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)


# -- in compiled code ----------------------------------------------------------------------------------------

NUMBER, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()


def _place(builder: Any, which: Any) -> Any:
    known = builder.module.globals.get(_NUMBERS)
    numbers = builder.ptrtoint(known or ir.GlobalVariable(builder.module, NUMBER, _NUMBERS), NUMBER)
    return builder.inttoptr(builder.add(numbers, which), NUMBER.as_pointer())


def _exchange(operation: str) -> Any:
    @intrinsic
    def exchange(context, which, number):
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = context.cast(builder, args[1], signature.args[1], types.int64)
            return builder.atomic_rmw(operation, _place(builder, args[0]), value, "seq_cst")

        return types.int64(types.int64, number), build

    return exchange


add, put = _exchange("add"), _exchange("xchg")  # both return what was there


@intrinsic
def look(context, which):
    """What a number has come to."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), build


def _outside(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """What a function of the system's or of Python's returns."""
    function = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), operands)


@intrinsic
def give_way(context):
    """Let others have the processor who want it."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _outside(builder, _GIVE_WAY, ir.IntType(32))
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def processor(context):
    """The processor that this thread is on; -1 where threads cannot be placed."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not PLACES_THREADS:
            return NUMBER(-1)
        return builder.sext(_outside(builder, _WHERE, ir.IntType(32)), NUMBER)

    return types.int64(), build


def _of_a_lock(name: str, result: Any, *numbers: int) -> Any:
    @intrinsic
    def call(context, lock):
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lock = builder.inttoptr(args[0], _POINTER)
            _outside(builder, name, result, lock, *(ir.Constant(ir.IntType(32), number) for number in numbers))
            return context.get_dummy_value()

        return types.void(types.int64), build

    return call


# The one sleeps, where a lock is taken, until the other releases it.
take, release = _of_a_lock(_TAKE, ir.IntType(32), 1), _of_a_lock(_RELEASE, ir.VoidType())
