"""How calls are timed on a GPU: by its own events, one after the other, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.common import Workload, take_turns

BATCH = 64  # images of a layer: enough to keep a large GPU busy
_TURN = 0.05  # seconds


def layer_of(layer: Workload) -> Workload:
    """A benchmark layer with the batch that it is timed with."""
    return layer._replace(x=(BATCH, *layer.x[1:]))


def missing() -> str | None:
    """Why nothing can be raced here, or None."""
    try:
        import torch
    except ImportError:
        return "there is no PyTorch here"
    return None if torch.cuda.is_available() else "the PyTorch here knows no GPU"


def put(a: np.ndarray) -> Any:
    """An array on the GPU."""
    import cupy

    return cupy.asarray(a)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """The time of a call, of several that are launched one after the other: the GPU's, not the processor's."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(repeats):
        call()
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) / 1e3 / repeats


def once(call: Callable[[], Any]) -> float:
    """The time of a call in seconds, which has been run before."""
    _seconds(call, 1)
    return _seconds(call, 3)


def _turn(call: Callable[[], Any], repeats: int) -> list[float]:
    call()
    return [_seconds(call, repeats)]


def interleaved(
    calls: dict[str, Callable[[], Any]], seconds: float = 2.0, least: int = 3, most: dict[str, int] | None = None
) -> dict[str, float]:
    """The median time of each call in seconds, all of them taking turns: as on the processor, but for the rests."""
    repeats = {name: max(1, round(_TURN / once(call))) for name, call in calls.items()}
    return take_turns(calls, _turn, repeats, seconds, least, most or {})


def device() -> str:
    """The GPU and what drives it."""
    import cupy

    number = cupy.cuda.Device().id
    properties = cupy.cuda.runtime.getDeviceProperties(number)
    versions = [cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()]
    driver, runtime = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
    return f"{properties['name'].decode()}, driver for CUDA {driver}, runtime {runtime}"
