"""Threads that rest in compiled code: awake for a while, so that they share the next loop, and then asleep.

A thread that sleeps takes some fifty microseconds to be woken, and one that would do anything in Python must then wait
for Python's lock, and be woken again: in less time many a convolution is done. So helpers watch counters in memory; and
where nothing happens they sleep, each by a lock of its own, until they are woken by whoever will have a loop soon, or a
job of Python's.

Whoever waits awake holds up nobody: between looks, threads give way to others that want their processor. And helpers
compile nothing, since a process that is forked meanwhile would for ever wait for numba's lock: what they run has types
that are told, and is there once this module is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from numba import njit

from . import counters
from .counters import LINE, LINES, add, give_way, lock, look, number, processor, put, release, take
from .kept import kept
from .team import BEGUN, FREE, GRACE, OPENED, join

__all__ = ["SEATS", "TURNS", "awaited", "awake", "clear", "end", "expect", "known", "post", "rest", "seat"]

TURNS = 1_500
"""Looks at a counter before a thread goes to sleep after all: about a quarter of a millisecond."""

# How many jobs of Python's were POSTED, and how often one has ENDED; how often a loop was EXPECTED, how many helpers
# rest, PRESENT, and how many of those are AWAKE, or have been woken.
_POSTED, _ENDED, _EXPECTED, _PRESENT, _AWAKE, _SEATED, _FIRST = range(FREE, FREE + 7 * LINE, LINE)
# Helpers have seats, and so many are SEATED. On the line of each is whether it is away, sleeps there or rests awake; its
# lock, which is taken until somebody wakes it; the system's number for the THREAD; the PROCESSOR that it looked from
# last, how many LOOKS it has had, and how many it had had when a loop was last EXPECTED, its THEN.
_LOCK, _THREAD, _PROCESSOR, _LOOKS, _THEN = range(8, 48, 8)
_AWAY, _SLEEPS, _RESTS = range(3)
SEATS = LINES - _FIRST // LINE
"""Helpers that can rest, at most."""


# -- what Python does of it ----------------------------------------------------------------------------------


def awake() -> int:
    """How many helpers rest awake."""
    return number(_AWAKE).value


def known() -> tuple[int, int]:
    """How many jobs were posted by now, and how often one has ended."""
    return number(_POSTED).value, number(_ENDED).value


def clear() -> None:
    """Forget everything: for a process that has none of its parent's threads."""
    global _placing
    _placing = threading.Lock()
    counters.clear()


def expect(helpers: int) -> int:
    """Say that there will be a loop for so many helpers, which are awake soon if there are so many; and how many rest.

    Who is awake stays so for as long again.
    """
    here, crowded = _processors(helpers)
    if not crowded:
        return int(_expect(helpers))
    with _apart(helpers, here):
        return int(_expect(helpers))


_placing = threading.Lock()  # whoever has it changes where helpers may run


@contextmanager
def _apart(helpers: int, here: int) -> Iterator[None]:
    """Keep helpers off the processor of the caller, and off those of others; afterwards they may go where they could.

    Systems do put a thread that is woken on the processor of who wakes it, while another is idle; and leave it there
    if all it does is to look whether there is something to do, and to give way if not.
    """
    if not (mine := _placing).acquire(blocking=False):
        yield
        return
    before: dict[int, set[int]] = {}
    try:
        with suppress(OSError):  # where that is forbidden
            _place(helpers, here, before)
        yield
    finally:
        for thread, processors in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, processors)
        mine.release()


def _place(helpers: int, here: int, before: dict[int, set[int]]) -> None:
    """Have the first that sleep, or did not get to look, elsewhere; ``before`` gets where they might run until now."""
    lines = [_FIRST + seat * LINE for seat in range(number(_SEATED).value)]
    settled, others = set(), []
    for line in lines:
        state, thread, there, looks, then = (
            number(line + which).value for which in (0, _THREAD, _PROCESSOR, _LOOKS, _THEN)
        )
        if state == _RESTS and looks != then and there != here:
            settled.add(there)
        elif state != _AWAY and thread not in (0, threading.get_native_id()):
            others.append(thread)
    if free := os.sched_getaffinity(0) - settled - {here}:
        for thread in others[:helpers]:
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, free)


def seat() -> int:
    """A seat for one more helper to :func:`rest` at, which keeps it for good."""
    return int(_seat(lock(), threading.get_native_id()))


# -- what threads do -----------------------------------------------------------------------------------------


@kept("int64(int64, int64)")
def _seat(own, thread):
    """Take a lock, and the next seat for it and a thread."""
    take(own)
    seat = add(_SEATED, 1)
    put(_FIRST + seat * LINE + _LOCK, own)
    put(_FIRST + seat * LINE + _THREAD, thread)
    return seat


@njit
def _wake(sleepers):
    """Wake so many helpers, or all who sleep."""
    for seat in range(look(_SEATED)):
        if sleepers <= 0:
            return
        line = _FIRST + seat * LINE
        if look(line) == _SLEEPS and put(line, _RESTS) == _SLEEPS:
            add(_AWAKE, 1)
            release(look(line + _LOCK))
            sleepers -= 1


@kept("Tuple((int64, boolean))(int64)")
def _processors(helpers):
    """The processor of the caller, and whether a helper that rests has none of its own, or may get none when woken."""
    here = processor()
    if here < 0:
        return here, False
    asleep = look(_AWAKE) < helpers
    for seat in range(look(_SEATED)):
        line = _FIRST + seat * LINE
        state = look(line)
        if state == _SLEEPS and asleep:
            return here, True
        if state == _RESTS and (look(line + _LOOKS) == look(line + _THEN) or look(line + _PROCESSOR) == here):
            return here, True
    return here, False


@kept("int64(int64)")
def _expect(helpers):
    """Say that there will be a loop, have so many helpers awake, and return how many rest."""
    add(_EXPECTED, 1)
    _wake(helpers - look(_AWAKE))
    for seat in range(look(_SEATED)):
        line = _FIRST + seat * LINE
        put(line + _THEN, look(line + _LOOKS))
    return look(_PRESENT)


@kept("void(int64)")
def post(helpers):
    """Say that there is a job for so many helpers: who rests awake looks for it, and so many who sleep.

    It is no more than a change that is looked for: one may get lost among several.
    """
    add(_POSTED, 1)
    _wake(helpers)


@kept("void()")
def end():
    """Say that a job has ended."""
    add(_ENDED, 1)


@kept("void(int64, int64, int64, boolean)", nogil=True)
def rest(seat, posted, turns, awake):
    """Share loops until more jobs than ``posted`` are there; awake, but asleep where there was no loop for long.

    That is so many ``turns`` after the last loop or the last time that one was expected; at first for no time at all,
    unless ``awake``. Whoever posts jobs holds Python's lock until his own loop has begun, and so long it is better to
    wait here.
    """
    line = _FIRST + seat * LINE
    add(_AWAKE, 1)
    add(_PRESENT, 1)
    put(line, _RESTS)
    opened, expected = -1, look(_EXPECTED)
    left, grace = turns if awake else 0, GRACE
    while look(_POSTED) == posted:
        put(line + _PROCESSOR, processor())
        add(line + _LOOKS, 1)
        if look(OPENED) != opened:
            left = left if opened < 0 else turns
            opened = look(OPENED)
            join()
        if look(_EXPECTED) != expected:
            expected, left = look(_EXPECTED), turns
        give_way()
        left -= 1
        if left > 0:
            continue
        add(_AWAKE, -1)
        put(line, _SLEEPS)
        # Who wakes us has said why before he looks whether we sleep; we look after we have said that we do. If both
        # see it, either we are the first to take it back, or he has released the lock.
        news = look(OPENED) != opened or look(_EXPECTED) != expected or look(_POSTED) != posted
        if news and put(line, _RESTS) == _SLEEPS:
            add(_AWAKE, 1)
        else:
            take(look(line + _LOCK))
            grace = 0 if look(_POSTED) != posted else GRACE  # it took long enough
        left = turns
    begun = look(BEGUN)
    while grace > 0 and look(BEGUN) == begun:
        grace -= 1
        give_way()
    put(line, _AWAY)
    add(_PRESENT, -1)
    add(_AWAKE, -1)


@kept("boolean(int64)", nogil=True)
def awaited(ended):
    """Wait for more jobs to have ended than ``ended``, and say whether it has come to that."""
    for _ in range(TURNS):
        if look(_ENDED) != ended:
            return True
        give_way()
    return False
