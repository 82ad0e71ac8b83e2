"""Where a convolution will run, and how fast that place is taken to be.

The rates are rough on purpose: they rank methods, they do not predict a wall clock. A processor's were fitted to
every method's times, with NumPy, over the layers of well-known networks; a GPU's follow from what it says of itself and
from shares of its peak that are guesses still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from . import arrays
from .algorithms import Cost

__all__ = ["Target"]


@dataclass(frozen=True)
class Rates:
    """What a kind of device sustains per second, a processor in one thread, and what memory suits it, in bytes.

    ``macs`` are the products inside a matrix product, by dtype, and ``other_macs`` those of dtypes that BLAS does
    not take; ``loops`` are those of compiled loops, by dtype, and ``other_loops`` of other dtypes; ``fft`` is the
    arithmetic of Fourier transforms, by dtype; ``traffic`` is bytes moved, ``runs`` inner loops started, and ``fresh``
    bytes of large workspaces, which the system hands out page by page; ``crowded`` is the share of those three that is
    left to each of several workers, and ``far`` the share of ``traffic`` that is left where a workspace is that of
    more than two tiles. ``tile`` is the workspace of one: several times what the nearest cache holds, since threads
    that run many small tiles wait for one another; ``loop_tile`` that of one that compiled loops fill, in a few calls,
    with what they read again at once; and ``most`` that past which a problem is cut, whatever the time.
    """

    macs: dict[str, float]
    other_macs: float
    loops: dict[str, float]
    other_loops: float
    fft: dict[str, float]
    traffic: float
    runs: float
    fresh: float
    crowded: float
    far: float
    tile: int
    loop_tile: int
    most: int


_PROCESSOR = Rates(
    macs={"float32": 7.7e10, "float64": 3.3e10, "complex64": 1.9e10, "complex128": 8e9},
    other_macs=1.2e9,
    loops={"float32": 1.15e11, "float64": 5.2e10},
    other_loops=4e9,
    fft={"float32": 1.1e10, "float64": 6.5e9, "complex64": 1.1e10, "complex128": 6.5e9},
    traffic=3.4e10,
    runs=3.6e8,
    fresh=5e9,
    crowded=0.7,
    far=0.5,
    tile=12 * 2**20,
    loop_tile=3 * 2**20,
    most=64 * 2**20,
)
_ACCELERATOR = Rates(
    macs={"float32": 2e13, "float64": 2e13, "complex64": 5e12, "complex128": 5e12},
    other_macs=1e12,
    loops={},
    other_loops=1e12,
    fft={"float32": 2e12, "float64": 1e12, "complex64": 2e12, "complex128": 1e12},
    traffic=2e12,
    runs=1e12,
    fresh=math.inf,  # their libraries keep what was freed, however large
    crowded=1.0,
    far=1.0,
    tile=2**30,
    loop_tile=2**30,
    most=4 * 2**30,
)
# Multiply-adds that a multiprocessor starts in a cycle, in single and in double precision, by compute capability (CUDA
# C++ Programming Guide, "Arithmetic instructions"), and how much faster tensor cores are in double precision.
_LANES = {
    (6, 0): (64, 32, 1),
    (7, 0): (64, 32, 1),
    (7, 2): (64, 32, 1),
    (7, 5): (64, 2, 1),
    (8, 0): (64, 32, 2),
    (9, 0): (128, 64, 2),
    (10, 0): (128, 64, 1),
}
_OTHER_LANES = (128, 2, 1)  # of GPUs that are made for pictures
_SIZES = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}


@lru_cache
def _rates(gpu: arrays.Accelerator) -> Rates:
    """The rates of a GPU: shares of its peaks."""
    single, double, tensor = _LANES.get(gpu.capability, _OTHER_LANES)
    single_macs, double_macs = (lanes * gpu.multiprocessors * gpu.clock for lanes in (single, double))
    product = 0.75 * single_macs
    traffic = 0.8 * gpu.bandwidth
    tile = min(_ACCELERATOR.tile, gpu.memory // 16)
    return replace(
        _ACCELERATOR,
        macs={
            "float32": product,
            "float64": 0.75 * double_macs * tensor,
            "complex64": product / 4,
            "complex128": 0.75 * double_macs * tensor / 4,
        },
        other_macs=0.05 * single_macs,
        loops={"float32": 0.75 * single_macs, "float64": 0.75 * double_macs},
        other_loops=0.06 * single_macs,
        # Transforms are passes over memory, of some twenty operations for each number that goes there and back.
        fft={dtype: 20 * traffic / (4 * size) for dtype, size in _SIZES.items()},
        traffic=traffic,
        tile=tile,
        loop_tile=tile,
        most=gpu.memory // 8,
    )


_KEPT = 32 * 2**20  # what allocators keep when freed and hand out again without the system's help: glibc's limit


@dataclass(frozen=True)
class Target:
    """The library and device of a call's arrays: what a plan knows of the world beside the problem.

    ``gpu`` is what the device says of itself, where the library can ask it. ``no_numba`` says why numba's loops
    cannot run there, ``no_cuda`` why CUDA's kernels cannot; None where they can. ``one_pass`` says whether the library
    sums products without storing any, ``tiled`` whether its arrays can be filled tile by tile, ``fft`` whether it has
    Fourier transforms, and ``workers`` how many threads tiles may be run on, or loops be shared by; ``cores`` is how
    many the library uses by itself.
    """

    library: str
    device: str
    call_seconds: float
    accelerator: bool
    gpu: arrays.Accelerator | None
    no_numba: str | None
    no_cuda: str | None
    one_pass: bool
    tiled: bool
    fft: bool
    workers: int
    cores: int

    @classmethod
    def of(cls, spec: arrays.ArraySpec, workers: int | None = None) -> Target:
        """The target of an array, with as many ``workers`` as the caller wants, or as there are processors."""
        library = spec.library
        gpu = library.accelerator(spec.device)
        accelerator = gpu is not None or arrays.is_accelerator(spec.device)
        return cls(
            library=library.name,
            device=str(gpu or ("any device" if spec.device is None else spec.device)),
            call_seconds=library.call_seconds,
            accelerator=accelerator,
            gpu=gpu,
            no_numba=arrays.uncompiled() if library.compiled else "is compiled for NumPy's arrays alone",
            no_cuda=None if library.cuda else "is written in CUDA, for CuPy's arrays alone",
            one_pass=library.sum_of_products is not None,
            tiled=library.in_place,
            fft=hasattr(spec.xp, "fft"),
            workers=(workers or arrays.threads()) if library.threads else 1,
            cores=1 if accelerator else arrays.threads(),
        )

    @property
    def rates(self) -> Rates:
        """The rates of the device."""
        if self.gpu is not None:
            return _rates(self.gpu)
        return _ACCELERATOR if self.accelerator else _PROCESSOR

    def rounds(self, dtype: str) -> bool:
        """Whether products of two matrices of a dtype are of factors rounded to 11 bits, as the library is told to."""
        return self.gpu is not None and self.gpu.rounds is not None and dtype in ("float32", "complex64")

    def tile_bytes(self, cost: Cost, kernel_bytes: int) -> int:
        """The workspace that a tile may have of what has such a ``cost``: more for a large kernel.

        A matrix product reads its whole kernel for every tile, so the tile should not be much the smaller.
        """
        return (self.rates.loop_tile if cost.loop_slots else self.rates.tile) + 2 * kernel_bytes

    def seconds(self, cost: Cost, dtype: str, alone: bool) -> float:
        """The predicted time of ``cost``: its calls, products, transforms and traffic, one after another.

        Where it runs ``alone``, and not on one of several workers, matrix products take every core.
        """
        rates = self.rates
        cores = self.cores if alone else 1
        products = cost.matmul_macs / (rates.macs.get(dtype, rates.other_macs) * (cores if dtype in rates.macs else 1))
        loops = cost.loop_slots / rates.loops.get(dtype, rates.other_loops)
        transforms = cost.fft_flops / rates.fft.get(dtype, rates.other_macs)
        # Compiled loops keep to the caches by themselves, whatever they hold.
        far = cost.workspace - cost.kept > 2 * rates.tile and not cost.loop_slots
        moved = cost.traffic / (rates.traffic * (rates.far if far else 1))
        memory = moved + cost.runs / rates.runs + max(cost.workspace - _KEPT, 0) / rates.fresh
        memory /= 1.0 if alone else rates.crowded
        calls = cost.calls * self.call_seconds
        if self.accelerator:  # some of its threads wait for memory while others work, and all work while it is called
            return max(products + transforms + max(loops, memory), calls)
        return products + transforms + loops + memory + calls
