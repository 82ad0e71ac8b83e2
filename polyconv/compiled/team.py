"""Threads that share one another's loops, without a word of Python.

As compilers of OpenMP do it (Dagum & Menon, "OpenMP: an industry standard API for shared-memory programming", 1998), a
loop's body becomes a function of its own: whoever runs a loop leaves that function's address and that of its arguments
where helpers see them, who rest in compiled code (:mod:`polyconv.compiled.resting`), and all draw parts of the loop until
none is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .counters import LINE, NUMBER, add, give_way, look, put
from .kept import kept

__all__ = ["BEGUN", "FREE", "GRACE", "OPENED", "announce", "join", "share", "shared"]

GRACE = 300
"""Looks until others must have ended their parts of a loop, or begun what they said they would."""
_UNDONE = "a part of a compiled loop failed, and its results are not there"
_PARTS = 16  # of a loop for each thread: so many that they end together, so few that drawing them costs nothing

# One loop at a time is shared: whoever has it made it OWNED, and OPEN as long as anyone may come INSIDE, for whom there
# are so many PLACES; CODE is its function, BLOCK its arguments, UNITS its length and LENGTH that of its parts, of which
# so many are DRAWN: LOW ones by the owner, HIGH ones by others, and so many have FAILED. So many loops were OPENED, and
# BEGUN, shared or not. What comes after these is FREE for others.
_OWNED, _OPEN, _INSIDE, _PLACES, _CODE, _BLOCK, _UNITS, _LENGTH, _DRAWN, _LOW, _HIGH, _FAILED, OPENED, BEGUN, FREE = (
    range(0, 15 * LINE, LINE)
)

# It returns whether a part failed, and takes its loop's arguments, who runs it, the first unit and the last.
_PART = ir.FunctionType(NUMBER, [NUMBER] * 4)


@kept("void()", nogil=True)
def announce():
    """Say that a loop begins, having let go of Python's lock: the first thing that one does."""
    add(BEGUN, 1)


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
            arguments = [*part, *cgutils.unpack_tuple(within, packed)]
            # What a part raises has nobody to go to on a helper's thread: that it did is what comes back.
            status, _ = context.call_internal_no_propagate(within, compiled.fndesc, inner, arguments)
            within.ret(within.zext(status.is_error, NUMBER))
            addresses = function, cgutils.alloca_once_value(builder, values[0])
            return context.make_tuple(builder, signature.return_type, [builder.ptrtoint(a, NUMBER) for a in addresses])

        return types.UniTuple(types.int64, 2)(args), build

    return outlined


@intrinsic
def _call(context, code, block, member, first, last):
    """Run a part of a loop; one if it failed, else zero."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.inttoptr(args[0], _PART.as_pointer()), args[1:])

    return types.int64(*[types.int64] * 5), build


@njit(nogil=True)
def _draw(member):
    """Run parts of the loop until all are drawn.

    Its owner, the member 0, draws from the first on and others from the last, so that in call after call each meets
    what it has in its cache.
    """
    code, block, units, length = look(_CODE), look(_BLOCK), look(_UNITS), look(_LENGTH)
    parts = -(-units // length)
    while add(_DRAWN, 1) < parts:
        part = add(_LOW, 1) if member == 0 else parts - 1 - add(_HIGH, 1)
        if _call(code, block, member, part * length, min((part + 1) * length, units)) != 0:
            add(_FAILED, 1)


@kept(nogil=True)
def share(body, workers, units):
    """Run a :func:`shared` body over parts of a loop that together are all ``units``, on ``workers`` threads.

    Those are the caller's, who is the ``member`` 0, and helpers that rest awake just then. Nobody is waited for who has
    not come; and where the team is at work for another, the caller does everything. Raises RuntimeError if a part raised
    anything.
    """
    announce()
    code, block = body
    if workers < 2 or units < 2 or put(_OWNED, 1) != 0:
        if _call(code, block, 0, 0, units) != 0:
            raise RuntimeError(_UNDONE)
        return
    put(_CODE, code)
    put(_BLOCK, block)
    put(_UNITS, units)
    put(_LENGTH, max(1, units // (_PARTS * workers)))
    put(_FAILED, 0)
    put(_DRAWN, 0)
    put(_LOW, 0)
    put(_HIGH, 0)
    put(_PLACES, workers - 1)
    put(_OPEN, 1)
    add(OPENED, 1)
    _draw(0)
    # Whoever comes inside from now on finds it closed; whoever came before is seen there.
    put(_OPEN, 0)
    looks = 0
    while look(_INSIDE) > 0:
        looks += 1
        if looks > GRACE:  # someone has lost its processor
            give_way()
    failed = look(_FAILED)
    put(_OWNED, 0)
    if failed > 0:
        raise RuntimeError(_UNDONE)


@njit(nogil=True)
def join():
    """Take part in the loop that is open, if there still is one, and a place."""
    add(_INSIDE, 1)
    if look(_OPEN) == 1:
        member = add(_PLACES, -1)
        if member > 0:
            _draw(member)
    add(_INSIDE, -1)
