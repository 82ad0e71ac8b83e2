"""The pool of threads: every task once, errors where they belong, BLAS as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import threadpoolctl

import polyconv as pc
from polyconv.algorithms import ALGORITHMS
from polyconv.execution import road
from polyconv.pool import run_all
from polyconv.tiling import Tile


class Stop(BaseException):
    """Not an ``Exception``."""


def blas_threads() -> list[int]:
    """Threads of the BLAS that NumPy calls; SciPy brings another, which may be loaded after the pool has looked."""
    pools = [one for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]
    own = [one for one in pools if "numpy" in one["filepath"]]
    return [one["num_threads"] for one in own or pools]


def in_a_thread(task: Callable[[], object]) -> None:
    """Run a task on a thread that ends: while one lives that has set limits, threadpoolctl minds no other's."""
    thread = threading.Thread(target=task)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def two_blas_threads() -> Iterator[None]:
    """BLAS on two threads, whatever this machine has; a test that leaves it otherwise fails."""
    before = blas_threads()
    in_a_thread(lambda: threadpoolctl.threadpool_limits(2, user_api="blas"))
    yield
    left = blas_threads()
    in_a_thread(lambda: threadpoolctl.threadpool_limits(max(before, default=None), user_api="blas"))
    assert left == [2] * len(left)


@pytest.fixture(params=[False, True], ids=["asleep", "awake"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether threads wait awake for one another, however few processors there are."""
    monkeypatch.setattr("polyconv.pool.threads", lambda: 100)
    return bool(request.param)


@pytest.mark.parametrize("workers", [1, 2, 3, 100])
@pytest.mark.parametrize("number", [0, 1, 2, 57])
def test_every_task_runs_once(workers: int, number: int, loops: bool) -> None:
    done: list[int] = []
    run_all((partial(done.append, i) for i in range(number)), workers, loops=loops)
    assert sorted(done) == [*range(number)]


def test_tasks_run_on_as_many_threads_as_there_are_workers() -> None:
    """Three tasks that wait for one another end only where three threads run them."""
    together = threading.Barrier(3, timeout=60)
    seen: set[threading.Thread] = set()

    def task() -> None:
        together.wait()
        seen.add(threading.current_thread())

    run_all([task] * 3, 3)
    assert len(seen) == 3
    assert threading.current_thread() in seen


def test_one_worker_is_the_caller() -> None:
    before = threading.active_count()
    seen: list[int] = []
    run_all([lambda: seen.append(threading.get_ident())] * 20, 1)
    assert {*seen} == {threading.get_ident()}
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [IndexError, ValueError, StopIteration, Stop])
@pytest.mark.parametrize("by", ["caller", "helper"])
def test_what_a_task_raises_is_raised_here(error: type[BaseException], by: str, loops: bool) -> None:
    """Whichever thread it ran on."""
    caller, met = threading.get_ident(), threading.Barrier(2, timeout=60)

    def task() -> None:
        met.wait()  # both threads have one
        if (threading.get_ident() == caller) == (by == "caller"):
            raise error("from the task")

    for _ in range(3):  # and it can be done again
        with pytest.raises(error, match="from the task"):
            run_all([task, task], 2, loops=loops)
        assert blas_threads() == [2] * len(blas_threads())


def test_after_an_error_no_task_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the thread that met it, nor by the other, which is busy with a task until the rest is called off."""
    begun: list[int] = []
    met, called_off = threading.Barrier(2, timeout=60), threading.Event()

    class Waiting(deque[Any]):
        def clear(self) -> None:
            super().clear()
            called_off.set()

    def fail() -> None:
        met.wait()
        raise ValueError("first")

    def busy() -> None:
        met.wait()
        called_off.wait(10)

    monkeypatch.setattr("polyconv.pool.deque", Waiting)
    with pytest.raises(ValueError, match="first"):
        run_all([fail, busy, *(partial(begun.append, i) for i in range(5))], 2)
    assert not begun


def test_pools_nest(loops: bool) -> None:
    done: list[tuple[int, ...]] = []

    def task(*path: int) -> None:
        if len(path) == 3:
            done.append(path)
        else:
            run_all((partial(task, *path, i) for i in range(6)), 6, loops=loops)

    task()
    assert sorted(done) == [*np.ndindex(6, 6, 6)]


def test_many_threads_share_the_pool(loops: bool) -> None:
    """More callers, each with its helpers, than the pool has threads."""
    done: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def caller(i: int) -> None:
        try:
            run_all((partial(done.append, (i, j)) for j in range(20)), 8, loops=loops)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(30)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not errors
    assert sorted(done) == [*np.ndindex(30, 20)]


_REST = """
import sys, threading, time
from queue import SimpleQueue
from polyconv import pool
from polyconv.compiled import counters, resting

awake, processors = int(sys.argv[1]), int(sys.argv[2])
rested, rest = SimpleQueue(), resting.rest
looks = lambda: counters.number(resting._FIRST + resting._LOOKS).value

def spy(seat, posted, turns, awake):
    rested.put((awake, looks()))
    rest(seat, posted, turns, awake)

pool._at_rest()
resting.rest, resting.TURNS, pool.threads = spy, 1_000, lambda: processors
for loops in (awake, False, awake, awake):
    met = threading.Barrier(2, timeout=60)
    pool.run_all([met.wait] * 2, 2, loops=bool(loops))  # ends only where two threads run
    expected = bool(loops and processors == 2)
    told, before = rested.get(timeout=60)
    while told != expected:  # it has rested before
        told, before = rested.get(timeout=60)
    patient = time.monotonic() + 60  # where others keep the processors, a thread may look for long
    time.sleep(0.5)
    while told and looks() - before < 1_000 and time.monotonic() < patient:
        time.sleep(0.1)
    assert looks() - before >= 1_000 if told else looks() - before <= 2, (told, looks() - before)
"""


@pytest.mark.parametrize(("awake", "processors"), [(True, 2), (False, 2), (True, 1)])
def test_threads_wait_awake_for_loops_alone(awake: bool, processors: int) -> None:
    """And only where each has a processor. Who rests is there for what comes next, whatever that is."""
    command = [sys.executable, "-c", _REST, str(int(awake)), str(processors)]
    done = subprocess.run(command, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_blas_keeps_to_one_thread_inside() -> None:
    seen: list[list[int]] = []
    run_all([lambda: seen.append(blas_threads())] * 4, 2)
    assert seen == [[1] * len(blas_threads())] * 4
    assert blas_threads() == [2] * len(blas_threads())


def test_blas_is_left_alone_by_tasks_that_do_not_use_it() -> None:
    seen: list[list[int]] = []
    run_all([lambda: seen.append(blas_threads())] * 4, 2, blas=False)
    assert seen == [[2] * len(blas_threads())] * 4


@pytest.mark.parametrize(("algorithm", "held"), [("im2col", 1), ("direct", 2)])
def test_blas_is_held_by_what_multiplies_matrices(algorithm: str, held: int) -> None:
    """While tiles are run on several threads."""
    seen: list[list[int]] = []
    x, w = np.ones((4, 2, 40, 31)), np.ones((3, 2, 3, 3))
    plan = pc.plan(x, w, algorithm=algorithm)
    chosen = plan.chosen.algorithm

    def run(*args: Any) -> Any:
        seen.append(blas_threads())
        return chosen.run(*args)

    tiled = road(plan.call, dataclasses.replace(chosen, run=run, write=None), Tile(1, 20), 2)
    tiled(x, *tiled.prepare(w, None))
    assert seen == [[held] * len(blas_threads())] * 8


@pytest.mark.parametrize("fails", [False, True])
def test_blas_waits_for_its_last_user(fails: bool) -> None:
    """Two users overlap; the first to come goes first, and the second still has one thread."""
    both, first_is_gone = threading.Barrier(2, timeout=60), threading.Event()
    seen: list[list[int]] = []

    def first() -> None:
        both.wait()
        if fails:
            raise ValueError("from the first")

    def second() -> None:
        both.wait()
        assert first_is_gone.wait(60)
        seen.append(blas_threads())

    def run_first() -> None:
        with contextlib.suppress(ValueError):
            run_all([first], 2)
        first_is_gone.set()

    other = threading.Thread(target=run_first)
    other.start()
    run_all([second], 2)
    other.join(60)
    assert seen == [[1] * len(blas_threads())]
    assert blas_threads() == [2] * len(blas_threads())


def test_blas_is_left_to_others_afterwards() -> None:
    """Whoever sets limits after the pool has worked, on whichever thread, is minded."""
    run_all([list] * 4, 2)
    seen: list[list[int]] = []

    def limited() -> None:
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            seen.append(blas_threads())

    in_a_thread(limited)
    assert seen == [[1] * len(blas_threads())]


_FORK = """
import os, sys, threading, traceback
import numpy as np, threadpoolctl, polyconv as pc
from polyconv.compiled.team import announce
from polyconv.execution import road
from polyconv.pool import run_all
from polyconv.tiling import Tile, whole

def convolve():
    x, w = np.ones((8, 2, 40, 40)), np.ones((2, 2, 3, 3))
    plan = pc.plan(x, w, algorithm="im2col")
    tiled = road(plan.call, plan.chosen.algorithm, Tile(1, 7), 2)
    assert (tiled(x, *tiled.prepare(w, None)) == 18).all()
    met = threading.Barrier(2, timeout=30)
    run_all([met.wait] * 2, 2, loops=True)  # ends only where two threads run
    plan = pc.plan(x, w, algorithm="direct")
    shared = road(plan.call, plan.chosen.algorithm, whole(plan.call.problem), 2)
    assert (shared(x, *shared.prepare(w, None)) == 18).all()

def parent_and_child():
    convolve()
    child = os.fork()
    if child == 0:
        try:
            assert blas_threads() == before
            convolve()
            assert blas_threads() == before
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    convolve()

def blas_threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

announce()  # what numba compiles first makes it bring a BLAS of its own
before = blas_threads()
parent_and_child()
run_all([parent_and_child], 2)  # a fork while the pool is at work
assert blas_threads() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_has_a_pool_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_helpers_mind_what_the_caller_has_set() -> None:
    """``numpy.errstate`` among it, which is a context variable."""
    together = threading.Barrier(2, timeout=60)
    seen: list[str] = []

    def task() -> None:
        together.wait()
        seen.append(np.geterr()["invalid"])

    with np.errstate(invalid="call"):
        run_all([task] * 2, 2)
    assert seen == ["call"] * 2


# -- convolutions ---------------------------------------------------------------------------------------------


def with_workers(workers: int, dtype: str, algorithm: str) -> tuple[np.ndarray, float]:
    """A result in 25 tiles on so many threads, and its predicted error."""
    rng, one = np.random.default_rng(0), 7 if dtype == "float32" else 1
    x, w = ((rng.integers(-99, 99, shape) / one).astype(dtype) for shape in ((5, 2, 30, 31), (3, 2, 3, 3)))
    plan = pc.plan(x, w, algorithm=algorithm)
    tiled = road(plan.call, plan.chosen.algorithm, Tile(1, 6), workers)
    return tiled(x, *tiled.prepare(w, None)), plan.chosen.error


@pytest.mark.parametrize("algorithm", ["im2col", "taps", "winograd", "fft"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_results_do_not_depend_on_workers(dtype: str, algorithm: str) -> None:
    if (dtype, algorithm) == ("int16", "fft"):
        pytest.skip("fft is inexact")
    y, error = with_workers(1, dtype, algorithm)
    scale = float(np.abs(y).max())
    for workers in (2, 3):
        other, _ = with_workers(workers, dtype, algorithm)
        if dtype == "float32":  # BLAS sums otherwise on one thread; eight times the mean is beyond any
            np.testing.assert_allclose(other, y, rtol=0, atol=2 * 8 * error * scale)
        else:
            np.testing.assert_array_equal(other, y)


def test_one_worker_needs_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(tasks: Any, workers: int, **how: bool) -> None:
        calls.append(workers)
        run_all(tasks, workers, **how)

    monkeypatch.setattr("polyconv.tiling.run_all", counted)
    with_workers(1, "float32", "im2col")
    assert not calls
    with_workers(2, "float32", "im2col")
    assert calls == [2]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_plan_has_no_more_workers_than_it_may(workers: int) -> None:
    """However many promise to be quickest."""
    x, w = np.empty((16, 16, 150, 150), np.float32), np.empty((16, 16, 3, 3), np.float32)
    plan = pc.plan(x, w, workers=workers)
    assert all(1 <= candidate.workers <= workers for candidate in plan.candidates)


def test_an_error_in_a_tile_reaches_the_caller() -> None:
    """As when memory runs out."""

    def fail(*args: Any) -> Any:
        raise MemoryError("no room")

    x, w = np.ones((5, 2, 30, 31)), np.ones((3, 2, 3, 3))
    call = pc.plan(x, w).call
    tiled = road(call, dataclasses.replace(ALGORITHMS[0], run=fail), Tile(1, 6), 2)
    with pytest.raises(MemoryError, match="no room"):
        tiled(x, *tiled.prepare(w, None))
