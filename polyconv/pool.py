"""One pool of threads for the process, on which tiles are convolved.

While it works, the BLAS that NumPy calls keeps to one thread in each of the pool's: two pools that each take every
processor would only wait for one another. The thread that calls works along, so that calls from many threads at once,
or from one of the pool's own, wait for nobody. Between compiled loops, which may take less time than a thread takes to
wake up, threads rest awake (:mod:`polyconv.compiled.resting`), and share loops without Python
(:mod:`polyconv.compiled.team`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from .arrays import one_thread, threads

__all__ = ["SECONDS", "SECONDS_ASLEEP", "SECONDS_AWAKE", "SECONDS_SHARED", "blas_in_one_thread", "rouse", "run_all"]

SECONDS = 5e-5
"""What one call of :func:`run_all` takes beside its tasks: threads are woken and waited for, BLAS held and let go."""
SECONDS_AWAKE = 3e-5
"""The same, where threads wait awake."""
SECONDS_SHARED = 1e-5
"""What a loop takes beside its own time that threads share."""
SECONDS_ASLEEP = 1e-5
"""What an array operation of each other thread takes beside its own time: it lets go of Python's lock, and whoever
finds that taken afterwards sleeps, and is woken in more time than a small tile takes. So tiles are best few and large.
"""


class _OneThread:
    """BLAS held to one thread as long as anyone asks for it, by any number of threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    def _set(self, numbers: Iterable[int]) -> None:
        for library, number in zip(self._libraries or (), numbers, strict=False):
            # The last to leave may be another thread than the first to come, and threadpoolctl would let no thread
            # change what another has set.
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)
            library.set_num_threads(number)
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)

    def _hold(self) -> None:
        if self._libraries is None:
            import threadpoolctl  # slow to import, and small images never need it

            self._libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
        self._before = [library.num_threads for library in self._libraries]
        self._set([1] * len(self._before))
        one_thread.held = True

    def release(self) -> None:
        """Set back what is held, if anything is."""
        before, self._before = self._before, []
        self._set(before)
        one_thread.held = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._hold()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self.release()


_one_thread = _OneThread()


@contextlib.contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Hold BLAS to one thread.

    Once it has used more, its other threads wait for the next product by asking for it over and over, for about a
    tenth of a second, in which they take the processors from the pool.
    """
    with _one_thread():
        yield


_MOST = 1000  # threads that work together, for each of which but one there is a place to rest
_resting: ModuleType | None = None  # where threads rest, once anybody wants them to; without numba, nobody does


def _at_rest() -> ModuleType:
    """Where threads rest. It is to be had when it is imported, and not a moment before, while another does so."""
    global _resting
    if _resting is None:
        from .compiled import resting

        _resting = resting
    return _resting


class _Team:
    """Threads that wait for work. There are as many as one call has wanted; where all are busy, callers work alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._jobs: SimpleQueue[Callable[[], bool]] = SimpleQueue()

    def grow(self, helpers: int) -> None:
        """Have so many threads, at least."""
        if helpers > self._size:
            with self._lock:
                for number in range(self._size, helpers):
                    threading.Thread(target=self._serve, name=f"polyconv-{number}", daemon=True).start()
                    self._size = number + 1

    def post(self, job: Callable[[], bool], helpers: int) -> None:
        """Have a job done by so many threads. It says whether they are to rest awake afterwards, or asleep."""
        for _ in range(helpers):
            self._jobs.put(job)
        if _resting is not None and helpers > 0:
            _resting.post(helpers)

    def gather(self, helpers: int, present: int) -> None:
        """Have so many threads rest, where those ``present`` do: the others, who wait for jobs, and new ones."""
        if self._jobs.empty():
            for _ in range(present, min(self._size, helpers)):
                self._jobs.put(lambda: True)
        self.grow(helpers)

    def _serve(self) -> None:
        seat: int | None = None
        awake = True
        while self is _team:  # and not in a child that was forked by this very thread
            if (resting := _resting) is None:
                awake = self._jobs.get()()
                continue
            # Jobs are posted once they are there: whoever finds none here will be told of the next.
            posted, _ = resting.known()
            try:
                job = self._jobs.get_nowait()
            except Empty:
                seat = resting.seat() if seat is None else seat
                resting.rest(seat, posted, resting.TURNS, awake)
            else:
                awake = job()
                resting.end()

    def wait(self, over: Callable[[], bool]) -> None:
        """Wait awake until threads have ended what is to be ``over``, or so long that the caller may as well sleep."""
        resting = _at_rest()
        _, ended = resting.known()
        while not over() and resting.awaited(ended):
            _, ended = resting.known()


_team = _Team()


def rouse(workers: int) -> int:
    """Have helpers awake for loops that ``workers`` threads are to share, and say how many can.

    The caller is one of them, and no more can than have a processor each.
    """
    resting = _at_rest()
    members = min(workers, threads(), _MOST)
    if (present := resting.expect(members - 1)) < members - 1:
        _team.gather(members - 1, present)
    return members


def _after_fork() -> None:
    """A child has none of its parent's threads, nor their work."""
    global _one_thread, _team
    _team = _Team()
    if _resting is not None:
        _resting.clear()
    _one_thread.release()
    _one_thread = _OneThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_all(tasks: Iterable[Callable[[], object]], workers: int, blas: bool = True, loops: bool = False) -> None:
    """Run every task, on ``workers`` threads of which the caller's is one. What a task raises is raised here.

    BLAS is held to one thread where the tasks use it. Where they are compiled ``loops``, and there are processors
    enough, threads wait for one another awake, for about a quarter of a millisecond: the caller for the last task, and
    its helpers for what may come next.
    """
    waiting = deque(tasks)
    helpers = min(workers, len(waiting), _MOST) - 1
    places = deque(range(helpers))  # not taken yet; what nobody takes, nobody is waited for
    ends: SimpleQueue[BaseException | None] = SimpleQueue()
    awake, context = loops and workers <= threads(), copy_context()

    def work() -> None:
        while True:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException:
                waiting.clear()  # no use in going on
                raise

    def help_out() -> bool:
        try:
            places.pop()
        except IndexError:
            return False
        error: BaseException | None = None
        try:
            context.copy().run(work)  # where the caller's numpy.errstate, for one, is kept
        except BaseException as raised:
            error = raised
        ends.put(error)
        return awake

    with blas_in_one_thread() if blas else contextlib.nullcontext():
        _team.grow(helpers)
        _team.post(help_out, helpers)
        try:
            work()
        finally:
            while places:
                with contextlib.suppress(IndexError):
                    places.pop()
                    helpers -= 1
            if awake and helpers:
                _team.wait(lambda: ends.qsize() >= helpers)
            errors = [ends.get() for _ in range(helpers)]
    for error in errors:
        if error is not None:
            raise error
