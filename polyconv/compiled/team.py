"""Threads that wait awake, and share one another's loops without a word of Python.

A thread that sleeps takes some fifty microseconds to be woken, and one that would do anything in Python must then wait
for Python's lock, and be woken again: in less time many a convolution is done. So helpers rest in compiled code. For a
while they watch counters in memory; then they sleep there, each by a lock of its own, until they are woken by whoever
will have something to share soon. Of a loop, as compilers of OpenMP do it (Dagum & Menon, "OpenMP: an industry standard
API for shared-memory programming", 1998), the body becomes a function of its own: whoever runs the loop leaves that
function's address and that of its arguments where helpers see them, and all draw parts of the loop until none is left.

Whoever waits awake holds up nobody: before every look, threads give way to others that want their processor. And helpers
compile nothing, since a process that is forked meanwhile would for ever wait for numba's lock: what they run has types
that are told, and is there once this module is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "SEATS",
    "TURNS",
    "announce",
    "awaited",
    "awake",
    "clear",
    "end",
    "expect",
    "known",
    "post",
    "rest",
    "seat",
    "share",
    "shared",
]

SEATS = 1024
"""Helpers that can rest, at most."""
TURNS = 1_500
"""Looks at a counter before a thread goes to sleep after all: about a quarter of a millisecond."""
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
# often a loop was EXPECTED, how many helpers rest, PRESENT, and how many of those are AWAKE, or have been woken.
_POSTED, _ENDED, _BEGUN, _EXPECTED, _PRESENT, _AWAKE, _SEATED = range(12 * _LINE, 19 * _LINE, _LINE)
# Helpers have seats, and so many are SEATED. On the line of each is whether it sleeps there; its lock, which is taken
# until somebody wakes it; the system's number for the THREAD; the PROCESSOR that it looked from last, how many LOOKS it
# has had, and how many it had had when a loop was last EXPECTED of it, its THEN.
_FIRST, _SIZE = 19 * _LINE, (19 + SEATS) * _LINE
_LOCK, _THREAD, _PROCESSOR, _LOOKS, _THEN = range(8, 48, 8)

_memory = ctypes.create_string_buffer(_SIZE + _LINE)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_memory))  # a helper may look there when all else is gone
_address = -(-ctypes.addressof(_memory) // _LINE) * _LINE
_system = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
_give_way_address = ctypes.cast(
    _system.SwitchToThread if sys.platform == "win32" else _system.sched_yield, ctypes.c_void_p
)
_PLACES_THREADS = hasattr(_system, "sched_getcpu") and hasattr(os, "sched_setaffinity")  # the system, if told to
# Python's own locks, which every system has; nobody needs Python's lock to take or release one.
_allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
_take_address, _release_address = (
    ctypes.cast(getattr(ctypes.pythonapi, f"PyThread_{name}_lock"), ctypes.c_void_p) for name in ("acquire", "release")
)
# What compiled code calls them, in any process.
_TEAM, _GIVE_WAY, _TAKE, _RELEASE, _WHERE = (
    f"polyconv_{name}" for name in ("team", "give_way", "take", "release", "where")
)
binding.add_symbol(_TEAM, _address)
for _name, _function in ((_GIVE_WAY, _give_way_address), (_TAKE, _take_address), (_RELEASE, _release_address)):
    binding.add_symbol(_name, _function.value)
if _PLACES_THREADS:
    binding.add_symbol(_WHERE, ctypes.cast(_system.sched_getcpu, ctypes.c_void_p).value)


# -- what Python does of it ----------------------------------------------------------------------------------


def _number(which: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(_address + which)


def awake() -> int:
    """How many helpers rest awake."""
    return _number(_AWAKE).value


def known() -> tuple[int, int]:
    """How many jobs were posted by now, and how often one has ended."""
    return _number(_POSTED).value, _number(_ENDED).value


def expect(number: int) -> int:
    """Say that there will be a loop for so many helpers, and how many rest, who all are awake soon or share another.

    Who is awake stays so for as long again.
    """
    here, crowded = _processors(number)
    if not crowded:
        return int(_expect(number))
    with _apart(number, here):
        return int(_expect(number))


@contextmanager
def _apart(number: int, here: int) -> Iterator[None]:
    """Keep helpers off the processor of the caller, and off those of others; afterwards they may go where they could.

    Systems do put a thread that is woken on the processor of who wakes it, while another is idle; and leave it there
    if all it does is to look whether there is something to do, and to give way if not.
    """
    lines = [_FIRST + seat * _LINE for seat in range(min(number, _number(_SEATED).value))]
    told = {line: [_number(line + which).value for which in (0, _LOOKS, _THEN, _PROCESSOR)] for line in lines}
    apart = {
        line: processor
        for line, (asleep, looks, then, processor) in told.items()
        if not asleep and looks != then and processor != here
    }
    free, before = os.sched_getaffinity(0) - {here, *apart.values()}, {}
    for line in lines:
        if free and line not in apart:
            thread = _number(line + _THREAD).value
            with suppress(OSError):  # of a thread that may not be moved
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, free)
    yield
    for thread, processors in before.items():
        with suppress(OSError):
            os.sched_setaffinity(thread, processors)


def clear() -> None:
    """Forget everything: for a process that has none of its parent's threads."""
    ctypes.memset(_address, 0, _SIZE)


def seat() -> int:
    """A seat for one more helper to :func:`rest` at, which keeps it for good."""
    return int(_seat(_allocate(), threading.get_native_id()))


# -- numbers that threads share ------------------------------------------------------------------------------

_NUMBER, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
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


def _outside(name: str, result: Any, *numbers: int) -> Any:
    """A function of the system's or of Python's: of the address of a lock and other ``numbers``, or of nothing."""

    def call(builder: Any, args: Any) -> Any:
        operands = [builder.inttoptr(lock, _POINTER) for lock in args]
        operands += [ir.Constant(ir.IntType(32), number) for number in numbers]
        function = ir.FunctionType(result, [operand.type for operand in operands])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), operands)

    return call


_giving_way, _asking = (_outside(name, ir.IntType(32)) for name in (_GIVE_WAY, _WHERE))
_taking, _releasing = _outside(_TAKE, ir.IntType(32), 1), _outside(_RELEASE, ir.VoidType())


@intrinsic
def _give_way(context):
    """Let others have the processor who want it."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _giving_way(builder, args)
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def _processor(context):
    """The processor that this thread is on; -1 where threads cannot be placed."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _PLACES_THREADS:
            return _NUMBER(-1)
        return builder.sext(_asking(builder, args), _NUMBER)

    return types.int64(), build


@intrinsic
def _take(context, lock):
    """Take a lock, however long that takes: sleep, where it is taken, until it is released."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _taking(builder, args)
        return context.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def _release(context, lock):
    """Release a lock that is taken."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _releasing(builder, args)
        return context.get_dummy_value()

    return types.void(types.int64), build


@njit("void()", nogil=True, cache=True)
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


@njit("int64(int64, int64)", cache=True)
def _seat(lock, thread):
    """Take a lock, and the next seat for it and a thread."""
    _take(lock)
    seat = _add(_SEATED, 1)
    _put(_FIRST + seat * _LINE + _LOCK, lock)
    _put(_FIRST + seat * _LINE + _THREAD, thread)
    return seat


@njit
def _wake(number):
    """Wake helpers until so many are awake, or none is left who sleeps."""
    missing = number - _look(_AWAKE)
    for seat in range(_look(_SEATED)):
        if missing <= 0:
            return
        line = _FIRST + seat * _LINE
        if _look(line) == 1 and _put(line, 0) == 1:
            _add(_AWAKE, 1)
            _release(_look(line + _LOCK))
            missing -= 1


@njit("Tuple((int64, boolean))(int64)", cache=True)
def _processors(number):
    """The processor of the caller, and whether one of so many helpers has none of its own, or may get none."""
    here = _processor()
    if here < 0:
        return here, False
    for seat in range(min(number, _look(_SEATED))):
        line = _FIRST + seat * _LINE
        if _look(line) or _look(line + _LOOKS) == _look(line + _THEN) or _look(line + _PROCESSOR) == here:
            return here, True
    return here, False


@njit("int64(int64)", cache=True)
def _expect(number):
    """Say that there will be a loop, wake helpers, and return how many rest."""
    _add(_EXPECTED, 1)
    _wake(number)
    for seat in range(min(number, _look(_SEATED))):
        line = _FIRST + seat * _LINE
        _put(line + _THEN, _look(line + _LOOKS))
    return _look(_PRESENT)


@njit("void(int64)", cache=True)
def post(number):
    """Say that there is a job for so many helpers.

    It is no more than a change that is looked for: one may get lost among several.
    """
    _add(_POSTED, 1)
    _wake(number)


@njit("void()", cache=True)
def end():
    """Say that a job has ended."""
    _add(_ENDED, 1)


@njit("void(int64, int64, int64, boolean)", nogil=True, cache=True)
def rest(seat, posted, turns, awake):
    """Share loops until more jobs than ``posted`` are there; awake, but asleep where there was no loop for long.

    That is so many ``turns`` after the last loop or the last time that one was expected; at first for no time at all,
    unless ``awake``. Whoever posts jobs holds Python's lock until his own loop has begun, and so long it is better to
    wait here.
    """
    line = _FIRST + seat * _LINE
    _add(_AWAKE, 1)
    _add(_PRESENT, 1)
    opened, expected = _look(_OPENED) - 1, _look(_EXPECTED)
    left, grace = turns if awake else 0, _GRACE
    while _look(_POSTED) == posted:
        _put(line + _PROCESSOR, _processor())
        _add(line + _LOOKS, 1)
        if _look(_OPENED) != opened:
            opened, left = _look(_OPENED), turns
            _join()
        if _look(_EXPECTED) != expected:
            expected, left = _look(_EXPECTED), turns
        _give_way()
        left -= 1
        if left > 0:
            continue
        _add(_AWAKE, -1)
        _put(line, 1)
        # Who wakes us has said why before he looks whether we sleep; we look after we have said that we do. If both
        # see it, either we are the first to take it back, or he has released the lock.
        news = _look(_OPENED) != opened or _look(_EXPECTED) != expected or _look(_POSTED) != posted
        if news and _put(line, 0) == 1:
            _add(_AWAKE, 1)
        else:
            _take(_look(line + _LOCK))
            grace = 0 if _look(_POSTED) != posted else _GRACE  # it took long enough
        left = turns
    begun = _look(_BEGUN)
    while grace > 0 and _look(_BEGUN) == begun:
        grace -= 1
        _give_way()
    _add(_PRESENT, -1)
    _add(_AWAKE, -1)


@njit("boolean(int64)", nogil=True, cache=True)
def awaited(ended):
    """Wait for more jobs to have ended than ``ended``, and say whether it has come to that."""
    for _ in range(TURNS):
        if _look(_ENDED) != ended:
            return True
        _give_way()
    return False
