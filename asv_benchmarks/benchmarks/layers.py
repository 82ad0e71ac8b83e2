"""Time, memory and error over the layers of well-known networks, per algorithm, layout and dtype."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np

import polyconv as pc

from .chooser import LAYOUTS
from .shapes import LAYERS

DTYPES = ("float32", "float64")
ALGORITHMS = ("auto", "im2col", "direct", "winograd", "fft")


class _Layer:
    """A layer with its kernel prepared; skipped where the algorithm refuses it."""

    params: tuple = (list(LAYERS), ALGORITHMS, DTYPES, list(LAYOUTS))
    param_names = ("layer", "algorithm", "dtype", "layout")
    timeout = 120

    def setup(self, layer: str, algorithm: str, dtype: str, layout: str) -> None:
        self.layer = LAYOUTS[layout](LAYERS[layer])
        self.x, self.w = self.layer.arrays(dtype)
        try:
            self.plan = pc.plan(self.x, self.w, algorithm=algorithm, prepared=True, **self.layer.keywords)
        except ValueError as refusal:
            raise NotImplementedError from refusal
        if self.plan.chosen.seconds > 5:
            raise NotImplementedError("too slow to be of interest")
        self.call = self.plan.prepare(self.w)


class Layers(_Layer):
    """Time of one call."""

    def time_call(self, *params: str) -> None:
        self.call(self.x)


class LayersMemory(_Layer):
    """The most bytes held at once, beside the image, the prepared kernel and the result; and what the plan says."""

    params = (list(LAYERS), ("auto", "im2col", "winograd"), ("float32",), list(LAYOUTS))
    unit = "bytes"

    def track_peak(self, *params: str) -> int:
        self.call(self.x)
        pc.release_memory()
        gc.collect()
        tracemalloc.start()
        try:
            y = self.call(self.x)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return peak - y.nbytes

    def track_planned(self, *params: str) -> int:
        return self.plan.chosen.workspace


class LayersError(_Layer):
    """Relative error, root mean square, against sums in double the precision; and what the plan says."""

    params = (list(LAYERS), ("auto", "direct", "winograd"), ("float32",), ("channels last",))
    unit = "relative"

    def track_error(self, *params: str) -> float:
        x, w = self.x[:1], self.w
        exact = pc.conv(x.astype("float64"), w.astype("float64"), algorithm="im2col", **self.layer.keywords)
        y = self.call(self.x)[:1]
        return float(np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)))

    def track_predicted(self, *params: str) -> float:
        return self.plan.chosen.error
