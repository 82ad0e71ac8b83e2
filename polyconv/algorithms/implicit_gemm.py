"""Implicit GEMM: the matrix product of ``im2col``, whose columns exist a slab at a time, in a GPU's shared memory.

Chetlur et al., "cuDNN: efficient primitives for deep learning" (arXiv:1410.0759). The kernel is
``polyconv/cuda/implicit_gemm.cu``; it finds pixels through a table of taps, adds the zeros around the image by itself,
and reads and writes any layout in place.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ..arrays import Array, constant, device, grid, new
from ..cuda import kernels
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["IMPLICIT_GEMM"]

_DEPTH = 8  # products between two synchronisations
_MOST_GROUPS = 65535  # of the second axis of a grid
_OUTSIDE = 2**30  # pixels from a window's corner: past the end of every image
_FETCH, _SLAB, _ROW, _THREAD = 16, 16, 45, 150  # instructions for a fetch, and beside all for a slab, a row, a thread
_MULTIPROCESSORS = 128  # about as many as a large GPU has; with fewer blocks, smaller ones are made


class _Block(NamedTuple):
    """Rows and columns of the product that a block of threads makes, and each thread; blocks held at once."""

    rows: int
    columns: int
    tall: int
    wide: int
    together: int

    @property
    def threads(self) -> int:
        return self.rows // self.tall * (self.columns // self.wide)

    @property
    def each(self) -> int:
        """Pixels of a slab that each thread fetches."""
        return self.rows * _DEPTH // self.threads


def _block(p: ConvProblem) -> _Block:
    """The block for a problem: as wide as it has filters, and less tall where there would be too few."""
    if p.itemsize == 8:
        most, less = _Block(128, 64, 8, 4, 2), _Block(64, 64, 4, 4, 2)
    elif p.filters > 64:
        most, less = _Block(128, 128, 8, 8, 2), _Block(64, 128, 8, 8, 3)
    elif p.filters > 32:
        most, less = _Block(128, 64, 8, 4, 2), _Block(64, 64, 8, 4, 4)
    elif p.filters > 16:
        most, less = _Block(128, 32, 8, 4, 4), _Block(64, 32, 4, 4, 5)
    else:
        most, less = _Block(128, 16, 4, 4, 6), _Block(64, 16, 4, 4, 8)
    return most if _blocks(p, most) * p.groups >= _MULTIPROCESSORS else less


def _blocks(p: ConvProblem, block: _Block) -> int:
    """Blocks that cover a group's product."""
    return -(-p.batch * p.positions // block.rows) * -(-p.filters // block.columns)


def _rows_together(p: ConvProblem, block: _Block) -> int:
    """How many outputs of an image a thread may store at once: as many as its rows lie together, if they divide all."""
    return math.gcd(p.positions, kernels.WIDEST // p.itemsize, block.tall)


def _filled(p: ConvProblem) -> tuple[int, int]:
    """Products for each output, and filters of a group, filled up to whole slabs and blocks."""
    columns = _block(p).columns
    return -(-p.channels * p.taps // _DEPTH) * _DEPTH, -(-p.filters // columns) * columns


class Packed(NamedTuple):
    """A kernel, ``(G, depth, columns)``, and ``(depth, axes + 1)``, where its products' pixels lie."""

    w: Array
    taps: Array


def _prepare(w: Array, p: ConvProblem, xp: ModuleType) -> Packed:
    depth, columns = _filled(p)
    space = tuple(range(3, 3 + p.ndim))
    # Products one after the other are of neighbours in memory: of channels, or of taps.
    order = (0, *space, 2, 1) if p.channels_last else (0, 2, *space, 1)
    w = xp.reshape(xp.permute_dims(w, order), (p.groups, -1, p.filters))
    filled = xp.zeros((p.groups, depth, columns), dtype=w.dtype, device=device(w))
    filled[:, : w.shape[1], : p.filters] = w
    return Packed(filled, constant(_taps(p.kernel, p.dilation, p.channels, p.channels_last, depth), xp, device(w)))


@lru_cache(maxsize=16)  # those of a kernel's gradient are as long as images
def _taps(kernel: tuple[int, ...], dilation: tuple[int, ...], channels: int, channels_last: bool, depth: int) -> Array:
    """Where the pixels of an output's products lie from its window's corner, and their channels; NumPy's, int32."""
    lengths = (*kernel, channels) if channels_last else (channels, *kernel)
    found = grid(lengths) if channels_last else grid(lengths)[:, [*range(1, len(lengths)), 0]]
    filled = grid((depth, *(1,) * len(kernel))) * 0
    filled[len(found) :, 0] = _OUTSIDE
    filled[: len(found)] = found * [*dilation, 1]
    return filled


def _write(x: Array, kernel: Packed, p: ConvProblem, xp: ModuleType, y: Array) -> None:
    """Convolve into ``y``, whatever the steps of either."""
    (x, x_steps), y_steps, block = kernels.near(x), kernels.steps(y), _block(p)
    widest = kernels.WIDEST // p.itemsize
    fetched = kernels.together(x, x.shape, x_steps, 2, min(kernels.WIDEST // x.itemsize, block.each))
    stored = kernels.together(y, y.shape, y_steps, 2, min(widest, block.wide))
    rows = kernels.together(y, *kernels.planes(y.shape, y_steps), 3, _rows_together(p, block))
    constants = (
        *kernels.types(x, p, y),
        ("AXES", p.ndim),
        ("ROWS", block.rows),
        ("COLUMNS", block.columns),
        ("TALL", block.tall),
        ("WIDE", block.wide),
        ("DEPTH", _DEPTH),
        ("VECTOR", fetched if p.channels_last else 1),
        ("STORE", stored),
        ("STORE_ROWS", rows if stored == 1 else 1),
        ("ALONG_ROWS", not p.channels_last),
        ("BLOCKS", block.together),
    )
    run = kernels.kernel("implicit_gemm", "implicit_gemm", constants, xp)
    geometry = _geometry(p, kernel.w.shape[1], x_steps, y_steps)
    run((_blocks(p, block), p.groups), (block.threads,), (x, kernel.w, kernel.taps, y, geometry))


@lru_cache(maxsize=64)
def _geometry(p: ConvProblem, depth: int, x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Array:
    """The kernel's ``Geometry``."""
    lows = [low for low, _ in p.padding]
    return kernels.by_value(
        p.batch * p.positions, p.filters, depth, *x_steps, *y_steps, *p.size, *p.output_size, *p.stride, *lows
    )


def _run(x: Array, kernel: Packed, problem: ConvProblem, xp: ModuleType) -> Array:
    """A matrix product whose one side is found in the image, piece by piece, into a new array."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _write(x, kernel, problem, xp, y)
    return y


def _cost(p: ConvProblem) -> Cost:
    block, (depth, columns) = _block(p), _filled(p)
    widest = kernels.WIDEST // p.itemsize
    together = math.gcd(p.channels, widest, block.each) if p.channels_last else 1
    stored = math.gcd(p.filters, widest) if p.channels_last else 1
    rows = 1 if p.channels_last else _rows_together(p, block)
    weights = -(-block.columns * _DEPTH // block.threads // widest)
    slab = _FETCH * block.each // together + block.each + 3 * weights + _SLAB
    slab += _DEPTH * (block.tall + block.wide) // widest
    others = depth // _DEPTH * slab + block.tall // rows * (_ROW + 4 * block.wide // stored) + _THREAD
    each = kernels.slots(p, depth * block.tall * block.wide, others)
    # Where there are fewer blocks than multiprocessors, the others have nothing to do.
    threads = max(p.groups * _blocks(p, block), _MULTIPROCESSORS) * block.threads
    return Cost(
        other_flops=2 * p.macs,
        loop_slots=int(threads * each),
        # Every block of columns reads the image, and every block of rows the kernel, from a cache more often than not.
        traffic=(p.image_elements * columns // block.columns + p.output_elements) * p.itemsize,
        runs=0,
        calls=1,
        workspace=0,
        error=direct(p),
    )


def _prepare_cost(p: ConvProblem) -> Cost:
    depth, columns = _filled(p)
    kept = p.groups * depth * columns * p.itemsize + 4 * depth * (p.ndim + 1)
    return Cost(traffic=3 * kept, runs=0, calls=4, workspace=kept + p.kernel_elements * p.itemsize, kept=kept)


def _reject(p: ConvProblem, target: Target) -> str | None:
    if reason := kernels.reject(p, target, "implicit_gemm"):
        return reason
    if p.groups > _MOST_GROUPS or p.size[0] >= _OUTSIDE:
        return f"implicit_gemm takes at most {_MOST_GROUPS} groups, and {_OUTSIDE} pixels along the first axis"
    return None


IMPLICIT_GEMM = Algorithm(
    "implicit_gemm",
    _run,
    _cost,
    _reject,
    _prepare,
    _prepare_cost,
    write=_write,
    absorbs=lambda problem: True,
    casts=kernels.casts,
)
