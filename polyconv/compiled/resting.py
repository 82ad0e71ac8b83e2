"""Threads that rest in compiled code: awake for a while, so that they share the next loop, and then asleep.

A thread that sleeps takes some fifty microseconds to be woken, and one that would do anything in Python must then wait
for Python's lock, and be woken again: in less time many a convolution is done. So helpers watch counters in memory; and
where nothing happens they sleep, each by a lock of its own, until they are woken by whoever will have a loop soon, or a
job of Python's.

Whoever waits awake holds up nobody: before every look, threads give way to others that want their processor. And helpers
compile nothing, since a process that is forked meanwhile would for ever wait for numba's lock: what they run has types
that are told, and is there once this module is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from numba import njit

from .counters import LINE, LINES, add, clear, give_way, lock, look, number, processor, put, release, take
from .team import BEGUN, FREE, GRACE, OPENED, join

__all__ = ["SEATS", "TURNS", "awaited", "awake", "clear", "end", "expect", "known", "post", "rest", "seat"]

TURNS = 1_500
"""Looks at a counter before a thread goes to sleep after all: about a quarter of a millisecond."""

# How many jobs of Python's were POSTED, and how often one has ENDED; how often a loop was EXPECTED, how many helpers
# rest, PRESENT, and how many of those are AWAKE, or have been woken.
_POSTED, _ENDED, _EXPECTED, _PRESENT, _AWAKE, _SEATED, _FIRST = range(FREE, FREE + 7 * LINE, LINE)
# Helpers have seats, and so many are SEATED. On the line of each is whether it sleeps there; its lock, which is taken
# until somebody wakes it; the system's number for the THREAD; the PROCESSOR that it looked from last, how many LOOKS it
# has had, and how many it had had when a loop was last EXPECTED of it, its THEN.
_LOCK, _THREAD, _PROCESSOR, _LOOKS, _THEN = range(8, 48, 8)
SEATS = LINES - _FIRST // LINE
"""Helpers that can rest, at most."""


# -- what Python does of it ----------------------------------------------------------------------------------


def awake() -> int:
    """How many helpers rest awake."""
    return number(_AWAKE).value


def known() -> tuple[int, int]:
    """How many jobs were posted by now, and how often one has ended."""
    return number(_POSTED).value, number(_ENDED).value


def expect(helpers: int) -> int:
    """Say that there will be a loop for so many helpers, and how many rest, who all are awake soon or share another.

    Who is awake stays so for as long again.
    """
    here, crowded = _processors(helpers)
    if not crowded:
        return int(_expect(helpers))
    with _apart(helpers, here):
        return int(_expect(helpers))


@contextmanager
def _apart(helpers: int, here: int) -> Iterator[None]:
    """Keep helpers off the processor of the caller, and off those of others; afterwards they may go where they could.

    Systems do put a thread that is woken on the processor of who wakes it, while another is idle; and leave it there
    if all it does is to look whether there is something to do, and to give way if not.
    """
    lines = [_FIRST + seat * LINE for seat in range(min(helpers, number(_SEATED).value))]
    told = {line: [number(line + which).value for which in (0, _LOOKS, _THEN, _PROCESSOR)] for line in lines}
    apart = {
        line: there
        for line, (asleep, looks, then, there) in told.items()
        if not asleep and looks != then and there != here
    }
    free, before = os.sched_getaffinity(0) - {here, *apart.values()}, {}
    for line in lines:
        if free and line not in apart:
            thread = number(line + _THREAD).value
            with suppress(OSError):  # of a thread that may not be moved
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, free)
    yield
    for thread, processors in before.items():
        with suppress(OSError):
            os.sched_setaffinity(thread, processors)


def seat() -> int:
    """A seat for one more helper to :func:`rest` at, which keeps it for good."""
    return int(_seat(lock(), threading.get_native_id()))


# -- what threads do -----------------------------------------------------------------------------------------


@njit("int64(int64, int64)", cache=True)
def _seat(own, thread):
    """Take a lock, and the next seat for it and a thread."""
    take(own)
    seat = add(_SEATED, 1)
    put(_FIRST + seat * LINE + _LOCK, own)
    put(_FIRST + seat * LINE + _THREAD, thread)
    return seat


@njit
def _wake(helpers):
    """Wake helpers until so many are awake, or none is left who sleeps."""
    missing = helpers - look(_AWAKE)
    for seat in range(look(_SEATED)):
        if missing <= 0:
            return
        line = _FIRST + seat * LINE
        if look(line) == 1 and put(line, 0) == 1:
            add(_AWAKE, 1)
            release(look(line + _LOCK))
            missing -= 1


@njit("Tuple((int64, boolean))(int64)", cache=True)
def _processors(helpers):
    """The processor of the caller, and whether one of so many helpers has none of its own, or may get none."""
    here = processor()
    if here < 0:
        return here, False
    for seat in range(min(helpers, look(_SEATED))):
        line = _FIRST + seat * LINE
        if look(line) or look(line + _LOOKS) == look(line + _THEN) or look(line + _PROCESSOR) == here:
            return here, True
    return here, False


@njit("int64(int64)", cache=True)
def _expect(helpers):
    """Say that there will be a loop, wake helpers, and return how many rest."""
    add(_EXPECTED, 1)
    _wake(helpers)
    for seat in range(min(helpers, look(_SEATED))):
        line = _FIRST + seat * LINE
        put(line + _THEN, look(line + _LOOKS))
    return look(_PRESENT)


@njit("void(int64)", cache=True)
def post(helpers):
    """Say that there is a job for so many helpers.

    It is no more than a change that is looked for: one may get lost among several.
    """
    add(_POSTED, 1)
    _wake(helpers)


@njit("void()", cache=True)
def end():
    """Say that a job has ended."""
    add(_ENDED, 1)


@njit("void(int64, int64, int64, boolean)", nogil=True, cache=True)
def rest(seat, posted, turns, awake):
    """Share loops until more jobs than ``posted`` are there; awake, but asleep where there was no loop for long.

    That is so many ``turns`` after the last loop or the last time that one was expected; at first for no time at all,
    unless ``awake``. Whoever posts jobs holds Python's lock until his own loop has begun, and so long it is better to
    wait here.
    """
    line = _FIRST + seat * LINE
    add(_AWAKE, 1)
    add(_PRESENT, 1)
    opened, expected = look(OPENED) - 1, look(_EXPECTED)
    left, grace = turns if awake else 0, GRACE
    while look(_POSTED) == posted:
        put(line + _PROCESSOR, processor())
        add(line + _LOOKS, 1)
        if look(OPENED) != opened:
            opened, left = look(OPENED), turns
            join()
        if look(_EXPECTED) != expected:
            expected, left = look(_EXPECTED), turns
        give_way()
        left -= 1
        if left > 0:
            continue
        add(_AWAKE, -1)
        put(line, 1)
        # Who wakes us has said why before he looks whether we sleep; we look after we have said that we do. If both
        # see it, either we are the first to take it back, or he has released the lock.
        news = look(OPENED) != opened or look(_EXPECTED) != expected or look(_POSTED) != posted
        if news and put(line, 0) == 1:
            add(_AWAKE, 1)
        else:
            take(look(line + _LOCK))
            grace = 0 if look(_POSTED) != posted else GRACE  # it took long enough
        left = turns
    begun = look(BEGUN)
    while grace > 0 and look(BEGUN) == begun:
        grace -= 1
        give_way()
    add(_PRESENT, -1)
    add(_AWAKE, -1)


@njit("boolean(int64)", nogil=True, cache=True)
def awaited(ended):
    """Wait for more jobs to have ended than ``ended``, and say whether it has come to that."""
    for _ in range(TURNS):
        if look(_ENDED) != ended:
            return True
        give_way()
    return False
