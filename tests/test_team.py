"""Loops that threads share: every unit once, whoever comes, and nobody waited for who does not."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

import polyconv as pc
from polyconv import pool, tiling
from polyconv.algorithms import direct
from polyconv.compiled import blocks, counters, loops, resting, spectra, team
from polyconv.execution import road
from polyconv.tiling import whole

_PATIENCE = 20_000_000  # looks for another thread, some seconds


@njit(nogil=True)
def _await(come, others, patience):
    """Wait until so many ``others`` have come, or it takes too long."""
    looks = 0
    while looks < patience and come.sum() < others:
        counters.give_way()
        looks += 1


@team.shared
def _mark(member, begin, end, marks, come, others):
    """Count every unit and who had it, and wait within the first parts until so many ``others`` have come."""
    come[member] = 1
    for unit in range(begin, end):
        marks[unit, member] += 1
    _await(come, others, _PATIENCE)


@njit(nogil=True)
def mark(workers, units, *args):
    """Run :func:`_mark`."""
    team.share(_mark(args), workers, units)


@team.shared
def _stumble(member, begin, end, marks, come, others, who):
    """Count every unit, once so many ``others`` have come, or it takes too long; but ``who`` fails."""
    come[member] = 1
    _await(come, others, 20_000)
    for unit in range(begin, end):
        if member == who:
            raise ValueError
        marks[unit] += 1


@njit(nogil=True)
def stumble(workers, units, *args):
    """Run :func:`_stumble`."""
    team.share(_stumble(args), workers, units)


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many as anyone asks for, however few this machine has, who rest for long; and nobody is left awake."""
    monkeypatch.setattr("polyconv.pool.threads", lambda: 100)
    monkeypatch.setattr(resting, "TURNS", 30_000)
    yield
    wait_until(lambda: resting.awake() == 0)


def wait_until(happens) -> None:
    until = time.monotonic() + 120  # a turn may last as long as others want the processor
    while not happens():
        assert time.monotonic() < until
        time.sleep(1e-3)


def have_awake(helpers: int) -> None:
    """Wait for so many to be awake at once: where much is to do, one may be asleep before another wakes."""
    wait_until(lambda: pool.rouse(helpers + 1) == helpers + 1 and resting.awake() >= helpers)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("units", [2, 7, 500])
def test_threads_that_are_awake_share_a_loop(workers: int, units: int) -> None:
    """As many as it has parts for: each waits in its first until all have come."""
    some = min(workers, units)
    mark(1, 0, np.zeros((0, 0), np.int64), np.zeros(0, np.int64), 0)  # is compiled, while helpers would fall asleep
    for _ in range(20):
        marks, come = np.zeros((units, workers), np.int64), np.zeros(workers, np.int64)
        have_awake(some - 1)
        mark(some, units, marks, come, some)
        np.testing.assert_array_equal(marks.sum(1), 1)
        np.testing.assert_array_equal(come, [1] * some + [0] * (workers - some))


@pytest.mark.parametrize(("workers", "units"), [(1, 9), (4, 1), (4, 0)])
def test_what_is_not_worth_sharing_is_done_by_the_caller(workers: int, units: int) -> None:
    marks, come = np.zeros((units, 4), np.int64), np.zeros(4, np.int64)
    mark(pool.rouse(workers), units, marks, come, 0)
    np.testing.assert_array_equal(marks[:, 0], 1)
    assert come[1:].sum() == 0


def test_nobody_is_waited_for_who_sleeps() -> None:
    """The caller does everything where no helper is awake."""
    wait_until(lambda: resting.awake() == 0)
    marks, come = np.zeros((50, 3), np.int64), np.zeros(3, np.int64)
    mark(3, 50, marks, come, 0)
    np.testing.assert_array_equal(marks, [[1, 0, 0]] * 50)


def test_who_is_expected_stays_awake() -> None:
    """Three times as long as otherwise, if he is told so every now and then; and no longer."""
    turns = 2_000_000
    helper = threading.Thread(target=resting.rest, args=(resting.seat(), resting.known()[0], turns, True), daemon=True)
    helper.start()
    wait_until(lambda: resting.awake() == 1)
    begin = time.monotonic()
    wait_until(lambda: resting.awake() == 0)
    patience = time.monotonic() - begin
    until = time.monotonic() + 3 * patience
    while time.monotonic() < until:
        resting.expect(100)
        assert resting.awake() >= 1
        time.sleep(patience / 20)
    wait_until(lambda: resting.awake() == 0)
    resting.post(0)
    assert helper.is_alive()  # who sleeps is woken as often as there are jobs for him
    resting.post(100)
    helper.join(60)
    assert not helper.is_alive()


def test_who_sleeps_is_woken_for_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it sleeps, without a job of Python's."""
    mark(pool.rouse(3), 9, np.zeros((9, 3), np.int64), np.zeros(3, np.int64), 0)
    wait_until(lambda: resting.expect(2) >= 2)
    monkeypatch.setattr(pool._team, "gather", pytest.fail)
    for _ in range(20):
        wait_until(lambda: resting.awake() == 0)
        marks, come = np.zeros((9, 3), np.int64), np.zeros(3, np.int64)
        mark(pool.rouse(3), 9, marks, come, 3)
        np.testing.assert_array_equal(marks.sum(1), 1)
        np.testing.assert_array_equal(come, 1)


def test_who_sleeps_is_woken_for_jobs() -> None:
    """Three tasks that wait for one another end only where three threads run them, wherever those sleep before."""
    for turns in (1, 2, 3, 5, 10) * 20:
        resting.TURNS = turns  # set back when the test ends: some go to sleep as they are woken
        together = threading.Barrier(3, timeout=60)
        pool.run_all([together.wait] * 3, 3, loops=turns % 2 == 1)
        mark(pool.rouse(3), 9, np.zeros((9, 3), np.int64), np.zeros(3, np.int64), 0)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, set[int]]]]:
    """What threads are told of where they may run, of four helpers, on a system that does nothing of the kind."""
    lines = [resting._FIRST + seat * counters.LINE for seat in range(4)]
    # The first sleeps, the second has one to itself, the third has not looked since a loop was expected, one is away.
    state = [(1, 8, 7, 9), (2, 8, 7, 3), (2, 7, 7, 9), (0, 7, 7, 9)]
    fields = (0, resting._LOOKS, resting._THEN, resting._PROCESSOR)
    numbers = {
        line + field: n for line, told in zip(lines, state, strict=True) for field, n in zip(fields, told, strict=True)
    }
    numbers |= {line + resting._THREAD: 100 + seat for seat, line in enumerate(lines)} | {resting._SEATED: 4}
    seen: list[tuple[int, set[int]]] = []
    with monkeypatch.context() as told:
        told.setattr(resting, "number", lambda which: ctypes.c_int64(numbers[which]))
        told.setattr(os, "sched_getaffinity", lambda thread: {9} if thread == 102 else {3, 5, 7, 9})
        told.setattr(os, "sched_setaffinity", lambda *given: seen.append(given))
        yield seen


places = pytest.mark.skipif(not counters.PLACES_THREADS, reason="threads cannot be placed on this system")


@places
def test_who_is_woken_is_kept_off_the_processor_of_the_caller(moved: list[tuple[int, set[int]]]) -> None:
    """And off those of helpers that are awake; afterwards it may go wherever it could before, whatever happened."""

    def interrupted() -> None:
        with resting._apart(3, 5):
            assert moved == [(100, {7, 9}), (102, {7, 9})]
            moved.clear()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert moved == [(100, {3, 5, 7, 9}), (102, {9})]


@places
def test_one_caller_at_a_time_says_where_helpers_may_run(moved: list[tuple[int, set[int]]]) -> None:
    """Or another would take for good what the first has set for a moment."""
    with resting._apart(3, 5):
        moved.clear()
        with resting._apart(3, 7):
            assert not moved
    assert moved == [(100, {3, 5, 7, 9}), (102, {9})]
    moved.clear()
    with resting._apart(3, 7):
        assert moved == [(100, {5, 9}), (102, {5, 9})]


@places
def test_where_threads_may_not_be_placed_they_are_left(
    moved: list[tuple[int, set[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(thread: int) -> set[int]:
        raise PermissionError(thread)

    with monkeypatch.context() as told:  # within that of `moved`, or what that has put there would come back and stay
        told.setattr(os, "sched_getaffinity", forbidden)
        with resting._apart(3, 5):
            assert not moved


@places
def test_threads_may_run_where_they_could() -> None:
    """After they were woken, and moved."""
    before = os.sched_getaffinity(0)
    for _ in range(5):
        mark(pool.rouse(3), 9, np.zeros((9, 3), np.int64), np.zeros(3, np.int64), 0)
        wait_until(lambda: resting.awake() == 0)
    helpers = [t for t in threading.enumerate() if t.name.startswith("polyconv")]
    assert len(helpers) >= 2
    assert all(os.sched_getaffinity(t.native_id) == before for t in helpers)


def test_rousing_says_that_a_loop_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it looks who is awake: or one might go just then, and nobody would be woken."""
    have_awake(1)
    monkeypatch.setattr(pool._team, "gather", pytest.fail)
    before = counters.number(resting._EXPECTED).value
    pool.rouse(2)
    assert counters.number(resting._EXPECTED).value == before + 1


def test_a_team_at_work_is_not_waited_for() -> None:
    """While one loop is shared, which waits for a third, another is done by its caller alone."""
    marks, come = np.zeros((9, 3), np.int64), np.zeros(3, np.int64)
    first = threading.Thread(target=lambda: mark(pool.rouse(2), 9, marks, come, 3))
    first.start()
    wait_until(lambda: come[0])
    other, there = np.zeros((50, 2), np.int64), np.zeros(2, np.int64)
    mark(pool.rouse(2), 50, other, there, 0)
    np.testing.assert_array_equal(other, [[1, 0]] * 50)
    assert first.is_alive()
    come[2] = 1
    first.join(60)
    np.testing.assert_array_equal(marks.sum(1), 1)


def test_many_callers_at_once() -> None:
    """Each loop is done once, whoever shares it."""
    failed = []

    def call(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            units = int(rng.integers(1, 200))
            marks, come = np.zeros((units, 3), np.int64), np.zeros(3, np.int64)
            mark(pool.rouse(3), units, marks, come, 0)
            if (marks.sum(1) != 1).any():
                failed.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not failed


FUSED = {"winograd": pc.Winograd(3, fused=True), "fft": pc.FFT(fused=True)}
WAYS = {
    "direct, positions": ("direct", "NCHW"),
    "direct, lines": ("direct", "NHWC"),
    "winograd": (pc.Winograd(4, fused=True), "NHWC"),
    "fft": (pc.FFT((16, 16), fused=True), "NCHW"),
}


@pytest.mark.parametrize("way", WAYS)
def test_convolution_is_shared(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the whole image at once, and with the very same result: nothing is summed in another order."""
    algorithm, layout = WAYS[way]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 40, 41, 3) if layout == "NHWC" else (6, 3, 40, 41)).astype("float32")
    w = rng.standard_normal((3, 3, 3, 8) if layout == "NHWC" else (8, 3, 3, 3)).astype("float32")
    roused = []
    rouse = pool.rouse

    def counted(workers: int) -> int:
        roused.append(workers)
        return rouse(workers)

    monkeypatch.setattr("polyconv.tiling.rouse", counted)
    bias = rng.standard_normal(8).astype("float32")
    found = []
    for workers in (1, 2, 3):
        plan = pc.plan(x, w, algorithm=algorithm, layout=layout, workers=workers)
        one = road(plan.call, plan.chosen.algorithm, whole(plan.call.problem), workers)
        found.append(one(x, *one.prepare(w, bias)))
    assert roused == [2, 3]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("why", ["half", "copied"])
def test_what_is_not_convolved_as_it_is_goes_tile_by_tile(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are cast while they are in cache, and what must be copied first is copied in tiles."""
    monkeypatch.setattr("polyconv.tiling.rouse", pytest.fail)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((6, 40, 41, 3)).astype("float32"), rng.standard_normal((3, 3, 3, 8)).astype("float32")
    layout, stride = "NHWC", (2, 2)
    if why == "half":
        x, w = x.astype("float16"), w.astype("float16")
    if why == "copied":  # so far apart are the pixels that its outputs see
        x, w, layout = x.transpose(0, 3, 1, 2).copy(), w.transpose(3, 2, 0, 1).copy(), "NCHW"
        stride = (2, 20)
    plan = pc.plan(x, w, algorithm=direct.LOOPS, stride=stride, layout=layout)
    one = road(plan.call, plan.chosen.algorithm, whole(plan.call.problem), 2)
    y = one(x, *one.prepare(w, None))
    np.testing.assert_allclose(y, pc.conv(x, w, stride=stride, layout=layout, algorithm="im2col"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((1, 14, 14, 256), (1, 1, 256, 64), {"layout": "NHWC"}),
        ((1, 28, 28, 64), (1, 1, 64, 64), {"layout": "NHWC", "stride": 2}),
        ((1, 56, 56, 24), (3, 3, 24, 40), {"layout": "NHWC", "padding": 1}),
        ((1, 3, 300), (5, 3, 7), {}),
        ((1, 6, 3000), (6, 1, 7), {"groups": 6}),
        ((1, 1, 90, 100), (1, 1, 5, 5), {}),
        ((2, 30, 31, 7), (3, 3, 7, 9), {"layout": "NHWC", "dilation": 2}),
        ((2, 9, 12, 14, 3), (2, 3, 3, 3, 9), {"layout": "NDHWC", "padding": 1}),
    ],
)
@pytest.mark.parametrize("algorithm", ["direct", "winograd", "fft"])
def test_planning_knows_how_many_units_a_loop_has(
    x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, Any], algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the largest of its loops is run with, or some more where its edges are loops of their own."""
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal(x).astype("float32"), rng.standard_normal(w).astype("float32")
    try:
        plan = pc.plan(image, kernel, algorithm=FUSED.get(algorithm, algorithm), **keywords)
    except ValueError:
        pytest.skip("not for this algorithm")
    chosen, p = plan.chosen.algorithm, plan.call.problem
    said = tiling.units(chosen, p, plan.call.dtypes, 3)
    if said < 2:
        pytest.skip("nothing to share")
    ran: list[int] = []

    def counted(loop: Callable[..., None], workers: int, units: int, *args: Any) -> None:
        ran.append(units)
        loop(workers, units, *args)

    over = [(loops, f"over_{kind}") for kind in ("filters", "lines", "panels", "positions")]
    for module, name in (*over, (blocks, "winograd"), (spectra, "convolve")):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    one = road(plan.call, chosen, whole(p), 3)
    y = one(image, *one.prepare(kernel, None))
    assert max(ran) <= said <= sum(ran)
    expected = pc.conv(image, kernel, algorithm="im2col", **keywords)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("workers", "who"), [(1, 0), (2, 0), (2, 1)], ids=["alone", "caller", "helper"])
def test_a_part_that_fails_is_not_passed_over(workers: int, who: int) -> None:
    """Whoever ran it; the loop that comes after knows nothing of it."""

    def fails(who: int) -> tuple[bool, np.ndarray]:
        """Whether the loop does, and who came: a helper may fall asleep before."""
        marks, come = np.zeros(100, np.int64), np.zeros(workers, np.int64)
        have_awake(workers - 1)
        try:
            stumble(workers, 100, marks, come, workers, who)
        except RuntimeError:
            return True, come
        np.testing.assert_array_equal(marks, 1)
        return False, come

    met = 0
    for _ in range(200):
        failed, come = fails(who)
        assert failed == bool(come[who])
        assert not fails(-1)[0]
        met += come.all()
        if met == 5:
            return
    pytest.fail("no helper came")
