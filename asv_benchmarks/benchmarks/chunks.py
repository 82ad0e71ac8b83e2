"""Dask arrays: what the graph costs, and what is lost and won against one call on the whole array."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.lib.stride_tricks import sliding_window_view

import polyconv as pc

from .common import interleaved


def _image(blocks: int) -> tuple[da.Array, np.ndarray]:
    """A large image, about as many blocks high as wide."""
    across = round(blocks**0.5)
    x = da.zeros((1, 1, across * 64, across * 64), chunks=(1, 1, 64, 64), dtype="float32")
    return x, np.ones((1, 1, 5, 5), np.float32)


class Graph:
    """The graph of a convolution with halos on all sides: it is not run."""

    params = (100, 2500, 10000)
    param_names = ("blocks",)
    timeout = 120

    def track_seconds_per_block(self, blocks: int) -> float:
        x, w = _image(blocks)
        pc.conv2d(x, w, padding="same")  # plans
        taken = []
        for _ in range(3):
            w = w + 1  # another kernel, or the graph would have the same name
            start = time.perf_counter()
            pc.conv2d(x, w, padding="same")
            taken.append(time.perf_counter() - start)
        return min(taken) / x.npartitions

    track_seconds_per_block.unit = "seconds"

    def track_tasks_per_block(self, blocks: int) -> float:
        x, w = _image(blocks)
        y = pc.conv2d(x, w, padding="same")
        return len(y.__dask_graph__().layers[y.name]) / x.npartitions

    track_tasks_per_block.unit = "tasks"


def einsum_of_windows(x: da.Array, w: np.ndarray) -> da.Array:
    """The way of the articles: windows as a view, contracted by Dask's own einsum."""
    return da.einsum("nchwij,kcij->nkhw", sliding_window_view(x, w.shape[2:], axis=(2, 3)), w)


WORKLOADS = {
    "64x3x256x256 by 16x3x3x3": ((64, 3, 256, 256), (16, 3, 3, 3)),
    "64x32x56x56 by 64x32x3x3": ((64, 32, 56, 56), (64, 32, 3, 3)),
}


class Throughput:
    """Chunks of the batch on the threaded scheduler, against one call in memory, and against Dask's einsum.

    Blocks stay as they are, as they do on their way to a file or a sum: to join them in one array is another copy.
    """

    params = (list(WORKLOADS), ("float32", "float64"))
    param_names = ("workload", "dtype")
    timeout = 300

    def setup(self, workload: str, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.x, self.w = (rng.standard_normal(shape, dtype=dtype) for shape in WORKLOADS[workload])
        self.chunked = da.from_array(self.x, chunks=(8, -1, -1, -1))

    def ours(self) -> da.Array:
        return pc.conv2d(self.chunked, self.w).persist(scheduler="threads")

    def race(self, peer: Callable[[], Any]) -> float:
        """The peer's time over ours, outputs compared first."""
        expected = np.asarray(peer())
        np.testing.assert_allclose(self.ours(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        times = interleaved({"ours": self.ours, "peer": peer})
        return times["peer"] / times["ours"]

    def track_against_numpy(self, workload: str, dtype: str) -> float:
        """Above 1, chunks are quicker than one call that may use every processor."""
        return self.race(lambda: pc.conv2d(self.x, self.w))

    def track_against_einsum(self, workload: str, dtype: str) -> float:
        return self.race(lambda: einsum_of_windows(self.chunked, self.w).persist(scheduler="threads"))

    track_against_numpy.unit = track_against_einsum.unit = "ratio"


def main() -> None:
    """Print all of it."""
    for blocks in Graph.params:
        graph = Graph()
        seconds, tasks = graph.track_seconds_per_block(blocks), graph.track_tasks_per_block(blocks)
        print(f"{blocks:6} blocks: {seconds * 1e6:6.1f} us and {tasks:.2f} tasks for each")
    for workload in WORKLOADS:
        for dtype in Throughput.params[1]:
            race = Throughput()
            race.setup(workload, dtype)
            numpy, einsum = race.track_against_numpy(workload, dtype), race.track_against_einsum(workload, dtype)
            print(f"{workload} {dtype}: {numpy:.2f} of one call in memory, {einsum:.2f} times da.einsum", flush=True)


if __name__ == "__main__":
    with dask.config.set(num_workers=2):
        main()
