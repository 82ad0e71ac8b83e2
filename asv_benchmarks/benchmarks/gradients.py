"""Both gradients of a convolution, against PyTorch's own backward, in the better of two layouts each.

``python -m benchmarks.gradients``, in ``asv_benchmarks``, prints all layers as a table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import polyconv as pc

from .common import interleaved
from .shapes import LAYERS, channels_last

# Those with kernels of 3x3 and 1x1, and the depthwise ones.
WANTED = [name for name, layer in LAYERS.items() if layer.w[2:] in ((3, 3), (1, 1)) or layer.w[1] == 1]
DTYPES = ("float32", "float64")
GRADIENTS = ("dx", "dw")


def ours(layer: Any, dtype: str, gradient: str) -> dict[str, Callable[[], np.ndarray]]:
    calls = {}
    for name, arranged in (("polyconv NCHW", layer), ("polyconv NHWC", channels_last(layer))):
        x, w = arranged.arrays(dtype)
        dy = np.random.default_rng(1).standard_normal(pc.conv(x, w, **arranged.keywords).shape).astype(dtype)
        said = arranged.keywords
        if gradient == "dx":
            calls[name] = lambda w=w, dy=dy, x=x, said=said: pc.conv_input_grad(dy, w, x.shape, **said)
        else:
            calls[name] = lambda w=w, dy=dy, x=x, said=said: pc.conv_weight_grad(x, dy, w.shape, **said)
    return calls


def pytorchs(layer: Any, dtype: str, gradient: str) -> dict[str, Callable[[], Any]]:
    import torch

    ndim, said = len(layer.x) - 2, layer.keywords
    stride, padding, dilation = (
        [said.get(key, d)] * ndim for key, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    calls = {}
    for name, order in (("PyTorch NCHW", torch.contiguous_format), ("PyTorch NHWC", torch.channels_last)):
        x, w = (torch.from_numpy(a).to(memory_format=order) for a in layer.arrays(dtype))
        y = pc.conv(*layer.arrays(dtype), **said)
        dy = torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape).astype(dtype)).to(memory_format=order)
        mask = [gradient == "dx", gradient == "dw", False]

        def call(x: Any = x, w: Any = w, dy: Any = dy, mask: Any = mask) -> Any:
            found = torch.ops.aten.convolution_backward(
                dy, x, w, None, stride, padding, dilation, False, [0] * ndim, said["groups"], mask
            )
            return found[0 if gradient == "dx" else 1]

        calls[name] = call
    return calls


def ratio(name: str, dtype: str, gradient: str, seconds: float = 1.5) -> tuple[float, dict[str, float]]:
    """PyTorch's time over ours, results compared first."""
    layer = LAYERS[name]
    calls = {**ours(layer, dtype, gradient), **pytorchs(layer, dtype, gradient)}
    expected = np.asarray(calls["PyTorch NCHW"]())
    found = calls["polyconv NCHW"]()
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=(1e-3 if dtype == "float32" else 1e-11) * abs(expected).max()
    )
    times = interleaved(calls, seconds)
    best = {who: min(t for name, t in times.items() if name.startswith(who)) for who in ("polyconv", "PyTorch")}
    return best["PyTorch"] / best["polyconv"], times


class Gradients:
    """Above 1, polyconv is the faster."""

    params = (WANTED, DTYPES, GRADIENTS)
    param_names = ("layer", "dtype", "gradient")
    unit = "ratio"
    timeout = 120

    def track_against_pytorch(self, name: str, dtype: str, gradient: str) -> float:
        try:
            return ratio(name, dtype, gradient)[0]
        except ImportError:
            raise NotImplementedError("PyTorch is not installed") from None


def main(wanted: list[str]) -> None:
    """Print ratios and their geometric means."""
    for dtype in DTYPES:
        ratios = []
        for name in wanted or WANTED:
            for gradient in GRADIENTS:
                value, times = ratio(name, dtype, gradient)
                ratios.append(value)
                ms = ", ".join(f"{who} {t * 1e3:.2f}" for who, t in times.items())
                print(f"{value:5.2f}  {dtype} {gradient} {name:<18} {ms} ms", flush=True)
        print(
            f"{dtype}: geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}, worst {min(ratios):.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
