"""The fast algorithms: what Winograd's method and Fourier transforms gain, and what they lose to rounding."""

from __future__ import annotations

import numpy as np

import polyconv as pc

from .common import Workload, interleaved
from .shapes import LAYERS, channels_last

DTYPES = ("float32", "float64")


class WinogradAgainstIm2col:
    """How many times as fast as ``im2col`` 256 to 256 channels on 56x56 are by ``winograd``, kernels prepared."""

    params = (DTYPES,)
    param_names = ("dtype",)
    unit = "ratio"
    timeout = 120

    def setup(self, dtype: str) -> None:
        layer = channels_last(LAYERS["vgg-conv3.2"])
        self.x, w = layer.arrays(dtype)
        self.calls = {name: pc.plan(self.x, w, algorithm=name, **layer.keywords).prepare(w) for name in self.names}
        y, exact = (self.calls[name](self.x) for name in self.names)
        assert np.abs(y - exact).max() < {"float32": 1e-5, "float64": 1e-12}[dtype] * np.abs(exact).max()

    names = ("winograd", "im2col")

    def track_speedup(self, dtype: str) -> float:
        times = interleaved({name: lambda call=call: call(self.x) for name, call in self.calls.items()}, 5.0)
        return times["im2col"] / times["winograd"]


class LargeKernel:
    """Times of others over polyconv's: a 31x31 kernel on a 1024x1024 image, without padding."""

    params = (DTYPES, ("scipy.signal.oaconvolve", "scipy.signal.fftconvolve", "torch.conv2d"))
    param_names = ("dtype", "peer")
    unit = "ratio"
    timeout = 120

    def setup(self, dtype: str, peer: str) -> None:
        x, w = Workload((1024, 1024), (31, 31), {}).arrays(dtype)
        plan = pc.plan(x, w, layout="HW", flip_kernel=peer.startswith("scipy"))
        self.calls = {"polyconv": lambda: plan(x, w), peer: self.peer(peer, x, w)}
        y, theirs = (np.asarray(call()) for call in self.calls.values())
        assert np.abs(y - theirs).max() < {"float32": 1e-5, "float64": 1e-12}[dtype] * np.abs(theirs).max()

    def peer(self, name: str, x: np.ndarray, w: np.ndarray):
        try:
            if name == "torch.conv2d":
                import torch

                image, kernel = (torch.from_numpy(a)[None, None] for a in (x, w))
                return lambda: torch.conv2d(image, kernel)[0, 0]
            import scipy.signal

            function = getattr(scipy.signal, name.rpartition(".")[2])
            return lambda: function(x, w, mode="valid")
        except ImportError as reason:
            raise NotImplementedError from reason

    def track_speedup(self, dtype: str, peer: str) -> float:
        times = interleaved(self.calls, 3.0)
        return times[peer] / times["polyconv"]


class Error:
    """Relative error, root mean square, at 64 channels and 3x3; and that of the prediction, as a ratio."""

    params = (("im2col", "fft", *(f"winograd m={m}" for m in range(2, 9))), DTYPES)
    param_names = ("algorithm", "dtype")
    unit = "relative"

    def setup(self, algorithm: str, dtype: str) -> None:
        name, _, m = algorithm.partition(" m=")
        rng = np.random.default_rng(0)
        x, w = rng.uniform(-1, 1, (1, 64, 48, 48)).astype(dtype), rng.uniform(-1, 1, (16, 64, 3, 3)).astype(dtype)
        exact = pc.conv2d(x.astype(np.longdouble), w.astype(np.longdouble), algorithm="taps")
        plan = pc.plan(x, w, algorithm=pc.Winograd(int(m)) if m else name)
        self.measured = float(np.sqrt(np.mean((plan(x, w) - exact) ** 2) / np.mean(exact**2)))
        self.predicted = plan.chosen.error

    def track_error(self, algorithm: str, dtype: str) -> float:
        return self.measured

    def track_predicted_over_measured(self, algorithm: str, dtype: str) -> float:
        return self.predicted / self.measured
