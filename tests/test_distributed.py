"""Dask's distributed scheduler: processes of their own, some of which die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polyconv as pc

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
import dask  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # sockets that a killed process leaves open, for one


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two processes of one thread each."""
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("filters", [8, 64], ids=["small kernel", "large kernel"])
@pytest.mark.parametrize("where", ["memory", "chunks"])
def test_results_are_the_same(client: Any, filters: int, where: str) -> None:
    x, w, bias = (
        RNG.integers(-9, 9, (6, 32, 20, 20)),
        RNG.integers(-9, 9, (filters, 32, 3, 3)),
        RNG.integers(-9, 9, filters),
    )
    kernel = w if where == "memory" else da.from_array(w, chunks=(filters // 2, 16, 3, 3))
    y = pc.conv2d(da.from_array(x, chunks=(2, 16, 7, 20)), kernel, bias, padding=2, padding_mode="reflect")
    np.testing.assert_array_equal(y.compute(), pc.conv2d(x, w, bias, padding=2, padding_mode="reflect"))


def prepared_here(_: Any) -> int:
    """How many convolutions of this process have a prepared kernel."""
    from polyconv import blocks

    return sum(len(one._prepared) for one in blocks._convolutions.values())


def test_a_kernel_is_prepared_once_in_each_process(client: Any) -> None:
    client.restart()
    x = da.from_array(RNG.standard_normal((40, 3, 16, 16)), chunks=(1, 3, 16, 16))
    pc.conv2d(x, RNG.standard_normal((4, 3, 3, 3))).compute()
    found = client.run(prepared_here, None)
    assert sum(found.values()) >= 1
    assert max(found.values()) == 1


def slow(block: np.ndarray, started: str) -> np.ndarray:
    """A block that takes its time, and leaves a trace."""
    Path(started, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.05)
    return block


def test_a_worker_killed_in_mid_run_changes_nothing(client: Any, tmp_path: Path) -> None:
    x, w = RNG.integers(-9, 9, (60, 3, 24, 24)), RNG.integers(-9, 9, (8, 3, 5, 5))
    image = da.from_array(x, chunks=(1, 3, 12, 24)).map_blocks(
        slow, str(tmp_path), dtype=x.dtype, meta=np.empty((0,) * 4, x.dtype)
    )
    future = client.compute(pc.conv2d(image, w, padding="same"))
    until = time.monotonic() + 60
    while len([*tmp_path.iterdir()]) < 10:
        assert time.monotonic() < until
        time.sleep(0.01)
    victim = int(next(tmp_path.iterdir()).name.partition("-")[0])
    os.kill(victim, signal.SIGKILL)
    assert not future.done()
    np.testing.assert_array_equal(future.result(timeout=120), pc.conv2d(x, w, padding="same"))
    pids = {int(trace.name.partition("-")[0]) for trace in tmp_path.iterdir()}
    assert victim in pids
    assert len(pids) >= 3  # another took its place


def test_an_error_names_its_block(client: Any) -> None:
    def refuse(block: np.ndarray) -> np.ndarray:
        return block[:, :2] if block[0, 0, 0, 0] == 3 else block  # a channel too few

    x = da.from_array(np.arange(4.0)[:, None, None, None] * np.ones((1, 3, 8, 8)), chunks=(1, 3, 8, 8))
    y = pc.conv2d(x.map_blocks(refuse, meta=np.empty((0,) * 4)), np.ones((2, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"reshape|shape") as caught:
        y.compute()
    assert any("in block (3, 0, 0, 0) of conv-" in note for note in caught.value.__notes__)
