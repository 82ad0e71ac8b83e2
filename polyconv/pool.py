"""One pool of threads for the process, on which tiles are convolved.

While it works, the BLAS that NumPy calls keeps to one thread in each of the pool's: two pools that each take every
processor would only wait for one another. The thread that calls works along, so that calls from many threads at once,
or from one of the pool's own, wait for nobody.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["SECONDS", "blas_in_one_thread", "run_all"]

SECONDS = 5e-5
"""What one call of :func:`run_all` takes beside its tasks: threads are woken and waited for, BLAS held and let go."""


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

    def release(self) -> None:
        """Set back what is held, if anything is."""
        before, self._before = self._before, []
        self._set(before)

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


@lru_cache(maxsize=1)
def _executor() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and small images never need it

    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="polyconv")  # threads start when first needed


def _after_fork() -> None:
    """A child has none of its parent's threads, nor their work."""
    global _one_thread
    _executor.cache_clear()
    _one_thread.release()
    _one_thread = _OneThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_all(tasks: Iterable[Callable[[], object]], workers: int) -> None:
    """Run every task, on ``workers`` threads of which the caller's is one. What a task raises is raised here."""
    waiting = deque(tasks)

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

    with blas_in_one_thread():
        # Each in a copy of the caller's context, where numpy.errstate for one is kept.
        helpers = [_executor().submit(copy_context().run, work) for _ in range(min(workers, len(waiting)) - 1)]
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():
                    helper.exception()  # waits
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
