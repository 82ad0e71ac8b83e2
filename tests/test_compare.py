"""The race of ``compare_peers.py``: who takes part, that outputs are checked, and what its table says."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import on_cpu
import pytest

BENCHMARKS = Path(__file__).parents[1] / "asv_benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("compare_peers", "gpu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import compare_peers

    monkeypatch.setattr(compare_peers, "once", lambda call: 1e-3)
    return compare_peers


def small(compare: Any, **keywords: Any) -> Any:
    """A layer of images that take no time, one channel for each filter."""
    return compare.Workload((2, 3, 9, 9), (3, 1, 3, 3), {"groups": 3, "padding": 1, **keywords})


def test_everybody_races_and_is_checked(compare: Any) -> None:
    place = compare.PLACES["cpu"]._replace(once=lambda call: 1e-3, interleaved=in_turns)
    times = compare.race(place, place.contestants, small(compare), "float64", 0.0, 1)
    who = {name.split()[0] for name in times}
    assert {"polyconv", "SciPy", "NumPy", "numba"} <= who
    value, mine, peer = compare.ratio(times)
    assert value > 0
    assert "not prepared" not in mine
    assert not peer.startswith("polyconv")


def in_turns(calls: dict[str, Any], seconds: float, most: dict[str, int]) -> dict[str, float]:
    return {name: i + 1.0 for i, name in enumerate(calls)}


def test_a_wrong_output_stops_the_race(compare: Any) -> None:
    def liar(layer: Any, x: np.ndarray, w: np.ndarray, threads: int) -> Iterator[tuple[str, Any]]:
        yield "liar", lambda: np.ones((2, 3, 9, 9))

    with pytest.raises(AssertionError, match="liar errs by"):
        compare.race(compare.PLACES["cpu"], [compare.polyconv, liar], small(compare), "float32", 0.0, 1)


def test_a_peer_that_nobody_knows_is_an_error(
    compare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_peers.py", "--only", "PyTorch"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--only knows torch, jax, scipy" in capsys.readouterr().err


def test_the_table_says_what_was_lost_first(compare: Any) -> None:
    times = {
        "vgg-conv3.2": {"polyconv NCHW (winograd)": 1.0, "PyTorch NCHW": 3.0, "cupyx fftconvolve": 40.0},
        "seed-keras": {"polyconv NHWC (direct)": 2.0, "PyTorch NCHW": 1.0},
    }
    lines = [*compare.table({"float32": times}, compare.GOALS["cuda"])]
    assert [line.split()[:2] for line in lines[1:3]] == [["0.50", "seed-keras"], ["3.00", "vgg-conv3.2"]]
    assert any("40.00  against cupyx (goal 10.0)" in line for line in lines)
    assert any("0.50  worst (goal 0.5)" in line for line in lines)


class Event:
    """A mark in time, as CuPy's of a GPU."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass


def cupy_of_numpy() -> ModuleType:
    """What of CuPy the race asks for, made of NumPy's arrays."""
    cupy = ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})  # type: ignore[attr-defined]
    cupy.asarray, cupy.pad, cupy.flip, cupy.empty_like = np.array, np.pad, np.flip, np.empty_like  # type: ignore[attr-defined]
    cupy.cuda = ModuleType("cupy.cuda")  # type: ignore[attr-defined]
    cupy.cuda.Event = Event
    cupy.cuda.get_elapsed_time = lambda start, stop: (stop.time - start.time) * 1e3
    return cupy


@pytest.mark.skipif(not on_cpu.COMPILER, reason="no g++ on this machine")
def test_the_race_on_a_gpu(compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by the processor: polyconv's CUDA kernels, PyTorch, and SciPy in place of its port."""
    import scipy.ndimage
    import scipy.signal

    monkeypatch.setitem(sys.modules, "cupy", cupy_of_numpy())
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.ndimage", scipy.ndimage)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.signal", scipy.signal)
    sys.modules["cupyx"].scipy = sys.modules["cupyx.scipy"]  # type: ignore[attr-defined]
    sys.modules["cupyx.scipy"].ndimage, sys.modules["cupyx.scipy"].signal = scipy.ndimage, scipy.signal  # type: ignore[attr-defined]
    monkeypatch.setattr(compare.gpu, "BATCH", 3)
    monkeypatch.setattr(compare.gpu, "_TURN", 0.0)
    with on_cpu.stand_in(on_cpu.H200), on_cpu.watched() as launches:
        place = compare.PLACES["cuda"]
        times = compare.race(place, place.contestants, small(compare), "float32", 0.0, 1)
    assert launches
    who = {name.split(" (")[0] for name in times}
    assert {"polyconv NCHW", "polyconv NHWC", "cupyx fftconvolve", "cupyx ndimage.correlate"} <= who
    assert all(seconds > 0 for seconds in times.values())
    assert compare.gpu.layer_of(small(compare)).x == (3, 3, 9, 9)


def test_a_race_on_a_gpu_is_one_against_pytorch(compare: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Where there is none, or it is not to take part, that is said first."""
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["compare_peers.py", "--device", "cuda", "--only", "cupyx"])
    monkeypatch.setattr(compare.gpu, "missing", lambda: "there is none")
    with pytest.raises(SystemExit, match="PyTorch's times, and there is none"):
        compare.main()
    monkeypatch.setattr(compare.gpu, "missing", lambda: None)
    with pytest.raises(SystemExit):
        compare.main()
    assert "--only has to name torch as well" in capsys.readouterr().err


def test_products_are_rounded_for_all_or_for_none(compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("CUPY_TF32", "0")
    for rounded, bound in ((True, 5e-3), (False, 1e-5)):
        compare.round_products(rounded)
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is rounded
        assert compare.bound_of("float32") == bound
        assert compare.bound_of("float64") == 1e-12


def test_groups_and_goals_name_layers_that_there_are(compare: Any) -> None:
    assert {*itertools.chain.from_iterable(compare.GROUPS.values())} <= {*compare.LAYERS}
    known = {"geometric mean", "worst", "against cupyx", *compare.GROUPS}
    assert all({*goals} <= known for device in compare.GOALS.values() for goals in device.values())
