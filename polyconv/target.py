"""Where a convolution will run, and how fast that place is taken to be.

The rates are rough on purpose: they rank methods, they do not predict a wall clock. A processor's were fitted to
every method's times, in float32 with NumPy, over the layers of well-known networks; an accelerator's are guesses
still, from data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import arrays
from .algorithms import Cost

__all__ = ["Target"]


@dataclass(frozen=True)
class Rates:
    """What a kind of device sustains per second, and what memory suits it, in bytes.

    ``macs`` are the products inside a matrix product, by dtype, and ``other_macs`` those of dtypes that BLAS does
    not take; ``traffic`` is bytes moved, ``runs`` inner loops started, and ``fresh`` bytes of large workspaces,
    which the system hands out page by page. ``tile`` is the workspace of one tile, about what a cache holds, and
    ``most`` that past which a problem is cut, whatever the time.
    """

    macs: dict[str, float]
    other_macs: float
    traffic: float
    runs: float
    fresh: float
    tile: int
    most: int


_PROCESSOR = Rates(
    macs={"float32": 1.2e11, "float64": 5e10, "complex64": 3e10, "complex128": 1.2e10},
    other_macs=1.2e9,
    traffic=2.5e10,
    runs=1.2e8,
    fresh=5e9,
    tile=2**20,
    most=64 * 2**20,
)
_ACCELERATOR = Rates(
    macs={"float32": 2e13, "float64": 2e13, "complex64": 5e12, "complex128": 5e12},
    other_macs=1e12,
    traffic=2e12,
    runs=1e12,
    fresh=1e12,
    tile=2**30,
    most=4 * 2**30,
)
_KEPT = 32 * 2**20  # what allocators keep when freed and hand out again without the system's help: glibc's limit


@dataclass(frozen=True)
class Target:
    """The library and device of a call's arrays: what a plan knows of the world beside the problem.

    ``tiled`` says whether the library's arrays can be filled tile by tile.
    """

    library: str
    device: str
    call_seconds: float
    accelerator: bool
    tiled: bool

    @classmethod
    def of(cls, spec: arrays.ArraySpec) -> Target:
        """The target of an array."""
        library = spec.library
        device = "any device" if spec.device is None else str(spec.device)
        return cls(library.name, device, library.call_seconds, arrays.is_accelerator(spec.device), library.in_place)

    @property
    def rates(self) -> Rates:
        """The rates of the device."""
        return _ACCELERATOR if self.accelerator else _PROCESSOR

    def tile_bytes(self, kernel_bytes: int) -> int:
        """The workspace that a tile may have: more for a large kernel.

        A matrix product reads its whole kernel for every tile, so the tile should not be much the smaller.
        """
        return self.rates.tile + 2 * kernel_bytes

    def seconds(self, cost: Cost, dtype: str) -> float:
        """The predicted time of ``cost``: its calls, products, traffic and runs, one after another."""
        rates = self.rates
        products = cost.matmul_macs / rates.macs.get(dtype, rates.other_macs)
        memory = cost.traffic / rates.traffic + cost.runs / rates.runs + max(cost.workspace - _KEPT, 0) / rates.fresh
        return cost.calls * self.call_seconds + products + memory
