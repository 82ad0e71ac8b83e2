"""The classical workloads by every method, and im2col beside eight lines of NumPy that do the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

import polyconv as pc

from .common import CLASSICAL, interleaved


def eight_lines_channels_last(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    (n, h, wd, c), (kh, kw, _, k) = x.shape, w.shape
    oh, ow = (h - kh) // stride + 1, (wd - kw) // stride + 1
    sn, sh, sw, sc = x.strides
    shape, strides = (n, oh, ow, kh, kw, c), (sn, sh * stride, sw * stride, sh, sw, sc)
    columns = as_strided(x, shape, strides).reshape(n * oh * ow, kh * kw * c)
    return (columns @ w.reshape(-1, k)).reshape(n, oh, ow, k)


def eight_lines_channels_first(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    (n, c, h, wd), (k, _, kh, kw) = x.shape, w.shape
    oh, ow = (h - kh) // stride + 1, (wd - kw) // stride + 1
    sn, sc, sh, sw = x.strides
    shape, strides = (n, c, kh, kw, oh, ow), (sn, sc, sh, sw, sh * stride, sw * stride)
    columns = as_strided(x, shape, strides).reshape(n, c * kh * kw, oh * ow)
    return (w.reshape(k, -1) @ columns).reshape(n, k, oh, ow)


def eight_lines(x: np.ndarray, w: np.ndarray, layout: str = "NCHW", stride: int = 1) -> np.ndarray:
    """The im2col that people write, in the better way for each layout."""
    if layout == "NHWC":
        return eight_lines_channels_last(x, w, stride)
    return eight_lines_channels_first(x, w, stride)


class Classical:
    """Time of each method, planned."""

    params = (list(CLASSICAL), [name for name in pc.algorithms() if name not in ("naive", "patch")])
    param_names = ("workload", "algorithm")
    timeout = 120

    def setup(self, workload: str, algorithm: str) -> None:
        self.x, self.w = CLASSICAL[workload].arrays()
        try:
            self.plan = pc.plan(self.x, self.w, algorithm=algorithm, **CLASSICAL[workload].keywords)
        except ValueError as reason:
            raise NotImplementedError from reason

    def time_planned(self, workload: str, algorithm: str) -> None:
        self.plan(self.x, self.w)

    def peakmem_planned(self, workload: str, algorithm: str) -> None:
        self.plan(self.x, self.w)


class Im2colAgainstEightLines:
    """The time of ``im2col``, planned, as a share of that of eight lines of NumPy; at most 1 is the aim."""

    params = (list(CLASSICAL),)
    param_names = ("workload",)
    unit = "ratio"
    timeout = 120

    def setup(self, workload: str) -> None:
        self.x, self.w = CLASSICAL[workload].arrays()
        self.keywords: dict[str, Any] = CLASSICAL[workload].keywords
        self.plan = pc.plan(self.x, self.w, algorithm="im2col", **self.keywords)
        np.testing.assert_allclose(
            self.plan(self.x, self.w), eight_lines(self.x, self.w, **self.keywords), rtol=1e-4, atol=1e-4
        )

    def track_ratio(self, workload: str) -> float:
        times = interleaved(
            {
                "polyconv": lambda: self.plan(self.x, self.w),
                "eight lines": lambda: eight_lines(self.x, self.w, **self.keywords),
            }
        )
        return times["polyconv"] / times["eight lines"]
