"""The four classical workloads, random data for them, and timing side by side."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Workload(NamedTuple):
    """Shapes and keywords of one convolution."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    keywords: dict[str, Any]

    def arrays(self, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """Random normal data: zeros would be faster than anything real."""
        rng = np.random.default_rng(0)
        return rng.standard_normal(self.x, dtype=dtype), rng.standard_normal(self.w, dtype=dtype)


CLASSICAL = {
    "8x150x150x3 by 3x3x3x16": Workload((8, 150, 150, 3), (3, 3, 3, 16), {"layout": "NHWC"}),
    "3x3x1000x1000 by 3x3x3x3": Workload((3, 3, 1000, 1000), (3, 3, 3, 3), {}),
    "3x3x10x10 by 3x3x3x3, stride 3": Workload((3, 3, 10, 10), (3, 3, 3, 3), {"stride": 3}),
    "32x28x28x3 by 4x4x3x4": Workload((32, 28, 28, 3), (4, 4, 3, 4), {"layout": "NHWC"}),
    "100x32x32x8 by 3x3x8x16": Workload((100, 32, 32, 8), (3, 3, 8, 16), {"layout": "NHWC"}),
}


REST = 0.15  # seconds: OpenBLAS's threads spin for 2**28 cycles
WARM = 0.05  # seconds
_BLOCK = 1e-3  # seconds
_TURN = 0.1  # seconds


def once(call: Callable[[], Any]) -> float:
    """The time of a call in seconds, which has been run before."""
    time.sleep(REST)
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(
    calls: dict[str, Callable[[], Any]],
    turn: Callable[[Callable[[], Any], int], list[float]],
    repeats: dict[str, int],
    seconds: float,
    least: int,
    most: dict[str, int],
) -> dict[str, float]:
    """The median of what ``turn(call, repeats)`` says that one call takes, all calls taking turns.

    There are ``least`` turns or more, until ``seconds`` have passed; a call takes part in ``most`` of them where that
    says how many.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end, turns = time.perf_counter() + seconds, itertools.count()
    while (number := next(turns)) < least or time.perf_counter() < end:
        for name, call in calls.items():
            if number < most.get(name, number + 1):
                times[name] += turn(call, repeats[name])
    return {name: statistics.median(taken) for name, taken in times.items()}


def _turn(call: Callable[[], Any], repeats: int) -> list[float]:
    time.sleep(REST)
    until = time.perf_counter() + WARM
    call()
    while time.perf_counter() < until:
        call()
    taken: list[float] = []
    until = time.perf_counter() + _TURN
    while not taken or time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        taken.append((time.perf_counter() - start) / repeats)
    return taken


def interleaved(
    calls: dict[str, Callable[[], Any]], seconds: float = 2.0, least: int = 3, most: dict[str, int] | None = None
) -> dict[str, float]:
    """The median time of each call in seconds, all of them taking turns so that the machine's moods hit all alike.

    A turn first rests, since threads of a BLAS that have just worked wait for more by spinning, and take the processor
    from whoever comes next; then it runs the call for a while untimed, since processors that have rested take their
    time to wake up, and what ran before leaves the allocator and the caches in a state that would favour one call and
    not another. What is timed is the call, or as many calls as take a millisecond, over and over. How many turns there
    are, :func:`take_turns` says.
    """
    repeats = {name: max(1, round(_BLOCK / once(call))) for name, call in calls.items()}
    return take_turns(calls, _turn, repeats, seconds, least, most or {})
