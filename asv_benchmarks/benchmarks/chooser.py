"""Whether ``algorithm="auto"`` chooses well: its time over that of the best method there is.

``python -m benchmarks.chooser``, in ``asv_benchmarks``, prints all layers as a table, which takes about ten minutes.
"""

from __future__ import annotations

import math
import sys

import numpy as np

import polyconv as pc

from .common import Workload, interleaved
from .shapes import LAYERS, channels_last

LAYOUTS = {"channels first": lambda layer: layer, "channels last": channels_last}
DTYPES = ("float32", "float64")
_HOPELESS = 5.0  # a method predicted to take so many times as long as the choice is not run


def race(layer: Workload, dtype: str, seconds: float = 1.0) -> tuple[str, dict[str, float]]:
    """The choice, and the time of every method that might be faster; outputs are compared before times are believed."""
    x, w = layer.arrays(dtype)
    auto = pc.plan(x, w, **layer.keywords)
    names = [c.name for c in auto.candidates if c.reason is None and c.seconds <= _HOPELESS * auto.chosen.seconds]
    calls, expected = {}, None
    for name in names:
        plan = auto if name == auto.algorithm else pc.plan(x, w, algorithm=name, **layer.keywords)
        y = plan(x, w)
        expected = y if expected is None else expected
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
        calls[name] = lambda plan=plan: plan(x, w)
    return auto.algorithm, interleaved(calls, seconds)


class Chooser:
    """Regret: 1 where the choice is the best method, 2 where another takes half the time."""

    params = (list(LAYERS), DTYPES, list(LAYOUTS))
    param_names = ("layer", "dtype", "layout")
    unit = "ratio"
    timeout = 120

    def track_regret(self, layer: str, dtype: str, layout: str) -> float:
        chosen, times = race(LAYOUTS[layout](LAYERS[layer]), dtype)
        return times[chosen] / min(times.values())


def main(wanted: list[str]) -> None:
    """Print regrets, their geometric mean and the worst."""
    regrets = []
    for name, layer in LAYERS.items():
        for dtype in DTYPES:
            for layout, arranged in LAYOUTS.items():
                if not wanted or name in wanted:
                    chosen, times = race(arranged(layer), dtype)
                    best = min(times, key=times.__getitem__)
                    regrets.append(times[chosen] / times[best])
                    better = "" if chosen == best else f"  ({best} is faster)"
                    text = f"{name:<18} {dtype} {layout:<15} {chosen:<10} {times[chosen] * 1e3:8.2f} ms{better}"
                    print(f"{regrets[-1]:5.2f}  {text}", flush=True)
    mean = math.exp(sum(map(math.log, regrets)) / len(regrets))
    print(f"geometric mean {mean:.3f}, worst {max(regrets):.2f}, of {len(regrets)}")


if __name__ == "__main__":
    main(sys.argv[1:])
