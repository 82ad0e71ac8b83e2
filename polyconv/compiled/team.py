"""Threads that wait awake, and share one another's loops without a word of Python.

A thread that sleeps takes some fifty microseconds to be woken, and one that would do anything in Python must first wait
for Python's lock: in less time many a convolution is done. So helpers rest in compiled code for a while, and watch
counters in memory. There, as compilers of OpenMP do it (Dagum & Menon, "OpenMP: an industry standard API for
shared-memory programming", 1998), a loop's body becomes a function of its own: whoever runs a loop leaves that
function's address and that of its arguments where helpers see them, and all draw parts of the loop until none is left.

Whoever waits holds up nobody: before every look, threads give way to others that want their processor.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["TURNS", "announce", "awaited", "awake", "clear", "expect", "known", "post", "rest", "share", "shared"]

TURNS = 1_500  # looks at a counter before a thread goes to sleep after all: about a quarter of a millisecond
_GRACE = 300  # looks, once there is a job, until its loop must have begun, or for others to end their parts of one
_PARTS = 16  # of a loop for each thread: so many that they end together, so few that drawing them costs nothing

# Each number has a line of the cache to itself. One loop at a time is shared: whoever has it made it OWNED, and OPEN as
# long as anyone may come INSIDE, for whom there are so many PLACES; CODE is its function, BLOCK its arguments, UNITS
# its length and LENGTH that of its parts, of which so many are DRAWN: LOW ones by the owner, HIGH ones by others.
_LINE = 64
_OWNED, _OPEN, _OPENED, _INSIDE, _PLACES, _CODE, _BLOCK, _UNITS, _LENGTH, _DRAWN, _LOW, _HIGH = range(
    0, 12 * _LINE, _LINE
)
# And for jobs of Python's: how many were POSTED, how often one has ENDED, how many loops of theirs have BEGUN. Then how
# many helpers are AWAKE, and how often one was EXPECTED to be so soon.
_POSTED, _ENDED, _BEGUN, _AWAKE, _EXPECTED, _SIZE = range(12 * _LINE, 18 * _LINE, _LINE)

_memory = ctypes.create_string_buffer(_SIZE + _LINE)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_memory))  # a helper may look there when all else is gone
_address = -(-ctypes.addressof(_memory) // _LINE) * _LINE
_system = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
_give_way_address = ctypes.cast(
    _system.SwitchToThread if sys.platform == "win32" else _system.sched_yield, ctypes.c_void_p
)
_TEAM, _GIVE_WAY = "polyconv_team", "polyconv_give_way"  # what compiled code calls them, in any process
binding.add_symbol(_TEAM, _address)
binding.add_symbol(_GIVE_WAY, _give_way_address.value)


# -- what Python does of it ----------------------------------------------------------------------------------


def _number(which: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(_address + which)


def awake() -> int:
    """How many helpers rest awake."""
    return _number(_AWAKE).value


def expect() -> None:
    """Say that there will be a loop: who rests awake now does so for as long again.

    Whoever looks afterwards how many are :func:`awake` knows that these will still be so.
    """
    _number(_EXPECTED).value += 1


def post() -> None:
    """Say that there is a job. It is no more than a change that is looked for: one may get lost among several."""
    _number(_POSTED).value += 1


def known() -> tuple[int, int]:
    """How many jobs were posted by now, and how often one has ended."""
    return _number(_POSTED).value, _number(_ENDED).value


def clear() -> None:
    """Forget everything: for a process that has none of its parent's threads."""
    ctypes.memset(_address, 0, _SIZE)


# -- numbers that threads share ------------------------------------------------------------------------------

_NUMBER, _GIVEN_WAY = ir.IntType(64), ir.FunctionType(ir.IntType(32), [])
_PART = ir.FunctionType(
    ir.VoidType(), [_NUMBER] * 4
)  # of a loop: its arguments, who runs it, the first unit and the last


def _place(builder: Any, which: Any) -> Any:
    known = builder.module.globals.get(_TEAM)
    team = builder.ptrtoint(known or ir.GlobalVariable(builder.module, _NUMBER, _TEAM), _NUMBER)
    return builder.inttoptr(builder.add(team, which), _NUMBER.as_pointer())


def _exchange(operation: str) -> Any:
    @intrinsic
    def exchange(context, which, number):
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = context.cast(builder, args[1], signature.args[1], types.int64)
            return builder.atomic_rmw(operation, _place(builder, args[0]), value, "seq_cst")

        return types.int64(types.int64, number), build

    return exchange


_add, _put = _exchange("add"), _exchange("xchg")  # both return what was there


@intrinsic
def _look(context, which):
    """What a number has come to."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), build


@intrinsic
def _give_way(context):
    """Let others have the processor who want it."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(cgutils.get_or_insert_function(builder.module, _GIVEN_WAY, _GIVE_WAY), [])
        return context.get_dummy_value()

    return types.void(), build


@njit(nogil=True, cache=True)
def announce():
    """Say that a loop begins, having let go of Python's lock: the first thing that one does."""
    _add(_BEGUN, 1)


# -- loops that are shared -----------------------------------------------------------------------------------


def shared(function: Callable[..., None]) -> Any:
    """Make of the body of a loop, ``function(member, begin, end, *args)``, what :func:`share` takes.

    That is a function of ``args``, of compiled code, which gives the addresses of the body, as a function that any
    thread can call, and of the arguments as it takes them then; these are there until who asked for them returns.
    """
    body = njit(nogil=True)(function)

    @intrinsic
    def outlined(context, args):
        inner = types.Dispatcher(body).get_call_type(context, (types.int64,) * 3 + tuple(args), {})

        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            compiled = body.get_compile_result(inner)
            context.active_code_library.add_linking_library(compiled.library)
            function = ir.Function(builder.module, _PART, builder.module.get_unique_name("part"))
            function.linkage = "internal"
            within = ir.IRBuilder(function.append_basic_block())
            block, *part = function.args
            packed = within.load(within.inttoptr(block, values[0].type.as_pointer()))
            # What a loop raises would have nobody to go to; but they raise nothing.
            arguments = [*part, *cgutils.unpack_tuple(within, packed)]
            context.call_internal_no_propagate(within, compiled.fndesc, inner, arguments)
            within.ret_void()
            addresses = function, cgutils.alloca_once_value(builder, values[0])
            return context.make_tuple(builder, signature.return_type, [builder.ptrtoint(a, _NUMBER) for a in addresses])

        return types.UniTuple(types.int64, 2)(args), build

    return outlined


@intrinsic
def _call(context, code, block, member, first, last):
    """Run a part of a loop."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(builder.inttoptr(args[0], _PART.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), build


@njit(nogil=True)
def _draw(member):
    """Run parts of the loop until all are drawn.

    Its owner, the member 0, draws from the first on and others from the last, so that in call after call each meets
    what it has in its cache.
    """
    code, block, units, length = _look(_CODE), _look(_BLOCK), _look(_UNITS), _look(_LENGTH)
    parts = -(-units // length)
    while _add(_DRAWN, 1) < parts:
        part = _add(_LOW, 1) if member == 0 else parts - 1 - _add(_HIGH, 1)
        _call(code, block, member, part * length, min((part + 1) * length, units))


@njit(nogil=True, cache=True)
def share(body, workers, units):
    """Run a :func:`shared` body over parts of a loop that together are all ``units``, on ``workers`` threads.

    Those are the caller's, who is the ``member`` 0, and helpers that rest awake just then. Nobody is waited for who has
    not come; and where the team is at work for another, the caller does everything.
    """
    announce()
    code, block = body
    if workers < 2 or units < 2 or _put(_OWNED, 1) != 0:
        _call(code, block, 0, 0, units)
        return
    _put(_CODE, code)
    _put(_BLOCK, block)
    _put(_UNITS, units)
    _put(_LENGTH, max(1, units // (_PARTS * workers)))
    _put(_DRAWN, 0)
    _put(_LOW, 0)
    _put(_HIGH, 0)
    _put(_PLACES, workers - 1)
    _put(_OPEN, 1)
    _add(_OPENED, 1)
    _draw(0)
    # Whoever comes inside from now on finds it closed; whoever came before is seen there.
    _put(_OPEN, 0)
    looks = 0
    while _look(_INSIDE) > 0:
        looks += 1
        if looks > _GRACE:  # someone has lost its processor
            _give_way()
    _put(_OWNED, 0)


@njit(nogil=True)
def _join():
    """Take part in the loop that is open, if there still is one, and a place."""
    _add(_INSIDE, 1)
    if _look(_OPEN) == 1:
        member = _add(_PLACES, -1)
        if member > 0:
            _draw(member)
    _add(_INSIDE, -1)


# -- waiting -------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def rest(posted, turns):
    """Say that a job has ended, and share loops until more jobs than ``posted`` are there, or nothing comes for a while.

    That is so many ``turns``, after the last loop or the last time that one was expected.

    Whoever posts jobs holds Python's lock, until his own loop has begun.
    """
    _add(_ENDED, 1)
    _add(_AWAKE, 1)
    opened, expected, left = _look(_OPENED) - 1, _look(_EXPECTED), turns
    while True:
        if _look(_OPENED) != opened:
            opened, left = _look(_OPENED), turns
            _join()
        if _look(_EXPECTED) != expected:
            expected, left = _look(_EXPECTED), turns
        if _look(_POSTED) != posted:
            begun = _look(_BEGUN)
            for _ in range(_GRACE):
                _give_way()
                if _look(_BEGUN) != begun:
                    break
            _add(_AWAKE, -1)
            return
        _give_way()
        left -= 1
        if left <= 0:
            # Whoever expects us has said so before he looked, and we look after we have said that we go.
            _add(_AWAKE, -1)
            if _look(_EXPECTED) == expected:
                return
            _add(_AWAKE, 1)


@njit(nogil=True, cache=True)
def awaited(ended):
    """Wait for more jobs to have ended than ``ended``, and say whether it has come to that."""
    for _ in range(TURNS):
        if _look(_ENDED) != ended:
            return True
        _give_way()
    return False
