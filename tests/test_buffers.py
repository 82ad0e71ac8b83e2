"""Memory that is lent again: only once nobody has it, never much of it, and never twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv as pc
from polyconv import arrays, buffers


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    pc.release_memory()
    yield
    pc.release_memory()


def kept() -> list[int]:
    """The bytes of every block that is kept."""
    return [block.nbytes for block in buffers._kept.values()]


def test_a_result_takes_the_memory_of_one_that_nobody_has_any_more() -> None:
    x, w = np.ones((4, 3, 300, 300)), np.ones((4, 3, 3, 3))
    plan = pc.plan(x, w)
    y = plan(x, w)
    place = arrays.address(y)
    second = plan(x, w)
    assert not np.shares_memory(y, second)
    del y
    third = plan(x, w)
    assert arrays.address(third) == place
    np.testing.assert_array_equal(third, 27.0)


@pytest.mark.parametrize("view", [lambda y: y[:1, :1, :2, :2], np.transpose, memoryview], ids=["part", "view", "bytes"])
def test_what_somebody_has_a_part_of_is_not_lent_again(view: Callable[[np.ndarray], Any]) -> None:
    x, w = np.ones((4, 3, 300, 300)), np.ones((4, 3, 3, 3))
    plan = pc.plan(x, w)
    y = plan(x, w)
    place, part, expected = arrays.address(y), view(y), np.asarray(view(y.copy()))
    del y
    others = [plan(2 * x, w) for _ in range(3)]
    assert place not in map(arrays.address, others)
    np.testing.assert_array_equal(np.asarray(part), expected)
    del part, others
    assert place in [arrays.address(y) for y in [plan(x, w) for _ in range(4)]]  # from then on it is


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1 << 26)), max_size=40))
def test_little_is_kept_and_nothing_lent_twice(steps: list[tuple[bool, int]]) -> None:
    """However blocks are taken and dropped; a byte at either end tells whose they are."""
    pc.release_memory()
    held: list[np.ndarray] = []
    for i, (take, number) in enumerate(steps):
        if take or not held:
            room = np.asarray(buffers.lend(number, arrays._bytes))
            assert number <= room.nbytes
            assert sum(kept()) + number <= max(buffers.KEPT, number)
            room[0] = room[-1] = i
            held.append(room)
            assert len({arrays.address(room) for room in held}) == len(held)
        else:
            held.pop(number % len(held))
        assert sum(kept()) <= buffers.KEPT
    assert all(room[0] == room[-1] for room in held)


def test_blocks_are_few_and_not_much_larger_than_what_is_asked_for() -> None:
    for _ in range(3):
        rooms = [np.asarray(buffers.lend(size, arrays._bytes)) for size in range(1, 200)]
        del rooms
    assert 0 < len(kept()) <= buffers._MANY
    pc.release_memory()
    buffers.lend(1000, arrays._bytes)
    assert kept() == [1000]
    assert np.asarray(buffers.lend(700, arrays._bytes)).nbytes == 700
    assert np.asarray(buffers.lend(900, arrays._bytes)).nbytes == 1000


def test_what_is_too_large_is_given_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "KEPT", 1000)
    for size in (1001, 600, 500):
        room = np.asarray(buffers.lend(size, arrays._bytes))
        del room
    assert kept() == [600]  # which was taken for 500
    room = np.asarray(buffers.lend(300, arrays._bytes))
    assert kept() == [600]
    other = np.asarray(buffers.lend(420, arrays._bytes))
    assert kept() == []  # 600 and 420 were too much
    del room, other
    assert kept() == [300, 420]


def test_release_gives_everything_back() -> None:
    x, w = np.ones((4, 3, 300, 300)), np.ones((4, 3, 3, 3))
    pc.conv2d(x, w)
    assert sum(kept()) >= 4 * 4 * 298 * 298 * 8
    pc.release_memory()
    assert kept() == []


def test_threads_never_share_a_block() -> None:
    wrong: list[int] = []

    def work(own: int) -> None:
        for i in range(300):
            room = np.asarray(buffers.lend(1000 + i % 3 * 100, arrays._bytes))
            room[:] = own
            if any((room != own).any() for _ in range(3)):
                wrong.append(own)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len({id(block) for block in buffers._kept.values()}) == len(kept()) <= buffers._MANY


def test_blocks_may_come_back_while_one_is_looked_for() -> None:
    """As they do when garbage is collected just then; and what is looked at may be given back."""

    class Busy:
        """A block of which many come back, or all are given back, whenever its size is asked for."""

        def __init__(self, happens: Callable[[], None]) -> None:
            self.happens = happens

        @property
        def nbytes(self) -> int:
            happens, self.happens = self.happens, lambda: None
            happens()
            return 700

    def many() -> None:
        for _ in range(3):
            buffers._keep(arrays._bytes(300))

    for happens in (many, pc.release_memory):
        pc.release_memory()
        buffers._kept[0], buffers._kept[1] = arrays._bytes(200), Busy(happens)
        buffers._kept[2] = arrays._bytes(100)
        assert np.asarray(buffers.lend(1000, arrays._bytes)).nbytes == 1000
        buffers._kept[1] = Busy(happens)
        buffers._forget(0)
        assert kept() == ([300] * 3 if happens is many else [])  # who comes so late is counted the next time


_FORK = """
import os, threading
from polyconv import arrays, buffers

def split():
    child = os.fork()
    if child == 0:
        threading.Timer(30, os._exit, (1,)).start()  # who waits for a lock that nobody has
        buffers.lend(10, arrays._bytes)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print("lent")

with buffers._guard:
    splitter = threading.Thread(target=split)  # which has not the lock
    splitter.start()
    splitter.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_was_split_off_while_another_thread_lent_can_lend() -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], timeout=100, capture_output=True, text=True, check=False)
    assert done.stdout == "lent\n", done.stderr
