"""Where a convolution will run, and how fast that place is taken to be.

The rates are rough on purpose: they rank methods, they do not predict a wall clock. Each was read off
a run of every method over the benchmark layers, see ``asv_benchmarks``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import arrays
from .algorithms import Cost

__all__ = ["Target"]


@dataclass(frozen=True)
class Rates:
    """Sustained rates of a kind of device, per second: products in a matrix product by dtype, and bytes moved."""

    macs: dict[str, float]
    other_macs: float
    traffic: float


_PROCESSOR = Rates({"float32": 1.2e11, "float64": 5e10, "complex64": 3e10, "complex128": 1.2e10}, 1.2e9, 8e9)
_ACCELERATOR = Rates({"float32": 2e13, "float64": 2e13, "complex64": 5e12, "complex128": 5e12}, 1e12, 2e12)


@dataclass(frozen=True)
class Target:
    """The library and device of a call's arrays: what a plan knows of the world beside the problem."""

    library: str
    device: str
    call_seconds: float
    accelerator: bool

    @classmethod
    def of(cls, spec: arrays.ArraySpec) -> Target:
        """The target of an array."""
        accelerator = arrays.is_accelerator(spec.device)
        device = "any device" if spec.device is None else str(spec.device)
        return cls(spec.library.name, device, spec.library.call_seconds, accelerator)

    def seconds(self, cost: Cost, dtype: str) -> float:
        """The predicted time of ``cost``: its calls, its products and its traffic one after another."""
        rates = _ACCELERATOR if self.accelerator else _PROCESSOR
        products = cost.matmul_macs / rates.macs.get(dtype, rates.other_macs)
        return cost.calls * self.call_seconds + products + cost.traffic / rates.traffic
