"""What a call costs beside its arithmetic, and what importing costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import numpy as np
from numpy.lib.stride_tricks import as_strided

import polyconv as pc
from polyconv import planning

from .common import CLASSICAL, interleaved


def bare(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The quickest NumPy expression found for a small patch: windows by strides, one matrix-vector product."""
    oh, ow = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    return (as_strided(x, (oh, ow, *w.shape), x.strides * 2).reshape(oh * ow, w.size) @ w.ravel()).reshape(oh, ow)


class SmallCalls:
    """Microseconds that a call on a 6x6 patch with a 3x3 kernel takes beyond the bare NumPy expression."""

    unit = "us"

    def setup(self) -> None:
        rng = np.random.default_rng(0)
        self.x, self.w = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
        self.plan = pc.plan(self.x, self.w, layout="HW")
        np.testing.assert_allclose(self.plan(self.x, self.w), bare(self.x, self.w), rtol=1e-12)
        self.calls = {
            "bare": lambda: bare(self.x, self.w),
            "planned": lambda: self.plan(self.x, self.w),
            "unplanned": lambda: pc.conv2d(self.x, self.w, layout="HW"),
        }

    def track_planned(self) -> float:
        times = interleaved(self.calls)
        return (times["planned"] - times["bare"]) * 1e6

    def track_unplanned(self) -> float:
        times = interleaved(self.calls)
        return (times["unplanned"] - times["bare"]) * 1e6

    def time_plan_afresh(self) -> None:
        planning.make_plan.cache_clear()
        pc.plan(self.x, self.w, layout="HW")


class AfterARest:
    """Milliseconds of a call that comes ten of them after the last, when the threads that help it sleep."""

    unit = "ms"
    params = [1, 2]
    param_names = ["workers"]

    def setup(self, workers: int) -> None:
        workload = CLASSICAL["8x150x150x3 by 3x3x3x16"]
        self.x, w = workload.arrays()
        self.ready = pc.plan(self.x, w, workers=workers, prepared=True, **workload.keywords).prepare(w)
        expected = pc.conv(self.x[:1], w, algorithm="im2col", **workload.keywords)
        np.testing.assert_allclose(self.ready(self.x)[:1], expected, rtol=0, atol=1e-4)

    def track_call(self, workers: int) -> float:
        taken = []
        for _ in range(100):
            time.sleep(0.01)
            start = time.perf_counter()
            self.ready(self.x)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken) * 1e3


class Import:
    """The time of ``import polyconv`` as a share of importing NumPy and array-api-compat, each in its own process."""

    unit = "ratio"
    timeout = 120

    def track_ratio(self) -> float:
        # An installed package is compiled once; so is this one then, whatever the environment says of it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def fresh(modules: str) -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, env=environment)
            return time.perf_counter() - start

        wanted = ("sys", "numpy, array_api_compat", "polyconv")
        turns = [[fresh(modules) for modules in wanted] for _ in range(20)]
        interpreter, numpy, polyconv = (min(taken) for taken in zip(*turns, strict=True))
        return (polyconv - interpreter) / (numpy - interpreter)
