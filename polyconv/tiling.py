"""Cutting a problem into tiles: some images, or some rows of one image, at a time.

A tile is the same convolution of a smaller image, so every algorithm can be cut, and knows nothing of it. It pays
twice: what an algorithm stores on its way (the columns of ``im2col``, say, nine times the image) stays in cache
and is the same memory again for every tile; and it never grows beyond a limit, however large the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

from .algorithms import Algorithm
from .arrays import Array, new
from .dtypes import Dtypes
from .padding import pad
from .pool import run_all
from .problem import ConvProblem

__all__ = ["Tile", "Tiles", "count", "cut", "multiplies", "part", "whole"]


class Tile(NamedTuple):
    """How many images, and how many output rows of each (along the first spatial axis), are convolved at a time."""

    images: int
    rows: int


def whole(p: ConvProblem) -> Tile:
    """The one tile that is the problem itself."""
    return Tile(p.batch, p.output_size[0])


@lru_cache  # few tiles differ, and their problems remember what they have worked out
def part(p: ConvProblem, tile: Tile) -> ConvProblem:
    """The problem that ``tile`` poses once its margins are there."""
    p = p.padded
    rows = p.window(0, 0, tile.rows)[0]
    return replace(p, batch=tile.images, size=(rows.stop - rows.start, *p.size[1:]))


def count(p: ConvProblem, tile: Tile) -> int:
    """How many tiles cover the problem."""
    return -(-p.batch // tile.images) * -(-p.output_size[0] // tile.rows)


def cut(p: ConvProblem, workspace: Callable[[Tile], float], limit: float, grain: int) -> Tile:
    """The largest tile, found by halving, whose ``workspace`` is within ``limit`` bytes; the smallest if none is.

    Images are halved before rows: one image holds together what the next tile would have to read again. Rows are
    kept in multiples of ``grain``, down to one such.
    """
    tile = whole(p)
    while (tile.images > 1 or tile.rows > grain) and workspace(tile) > limit:
        images, rows = tile
        tile = Tile(-(-images // 2), rows) if images > 1 else Tile(1, -(-rows // (2 * grain)) * grain)
    return tile


def _intervals(extent: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, extent)) for start in range(0, extent, step))


class _Part(NamedTuple):
    """One tile: what it reads of the image and writes of the result, its problem, and the zeros that it wants."""

    source: tuple[Any, ...]
    target: tuple[Any, ...]
    problem: ConvProblem
    margins: tuple[tuple[int, int], ...]


def _parts(p: ConvProblem, tile: Tile, pads: bool) -> tuple[_Part, ...]:
    """The tiles of a problem; where the algorithm ``pads``, their problems have the margins."""
    found = []
    for (first, last), (top, bottom) in product(
        _intervals(p.batch, tile.images), _intervals(p.output_size[0], tile.rows)
    ):
        rows, margin = p.window(0, top, bottom)
        margins = (margin, *p.padding[1:])
        here = part(p, Tile(last - first, bottom - top))
        if pads:
            here = replace(here, size=(rows.stop - rows.start, *p.size[1:]), padding=margins)
        images, everything = slice(first, last), slice(None)
        source, target = (images, everything, everything, rows), (images, everything, everything, slice(top, bottom))
        found.append(_Part((*source, ...), (*target, ...), here, margins))
    return tuple(found)


@lru_cache
def multiplies(algorithm: Algorithm, p: ConvProblem) -> bool:
    """Whether an algorithm multiplies matrices, and so has BLAS at work."""
    return algorithm.cost(p).matmul_macs > 0


@dataclass(frozen=True, eq=False)
class Tiles:
    """An algorithm to be run tile by tile: ``x`` is ``(N, G, C, *size)``, what comes back ``(N, G, K, *output_size)``.

    Zeros that ``problem`` wants around the image are added to each tile, the ``bias``, ``(G, K, 1, ...)``, to its
    result, and it is cast there to the dtype of the sums and back, as far as the algorithm does not do so by itself:
    nothing as large as the image is made but what comes back. With several ``workers``, tiles are run on as many
    threads.
    """

    algorithm: Algorithm
    problem: ConvProblem
    tile: Tile
    workers: int
    dtypes: Dtypes
    device: Any
    xp: ModuleType

    @cached_property
    def _pads(self) -> bool:
        return self.algorithm.pads(self.problem)

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        return _parts(self.problem, self.tile, self._pads)

    @cached_property
    def _in_threads(self) -> Callable[[Iterable[Callable[[], object]]], None]:
        """What runs tasks, of a tile each."""
        cost = self.algorithm.cost(self._parts[0].problem)
        return partial(run_all, workers=self.workers, blas=cost.matmul_macs > 0, loops=cost.loop_slots > 0)

    def __call__(self, x: Array, kernel: Any, bias: Array | None) -> Array:
        """Convolve an image."""
        p = self.problem
        y = new(self.xp.empty, p.result_shape, p.memory_order, self.dtypes.result, self.device, self.xp)
        tasks = [partial(self._run, x, kernel, bias, y, one) for one in self._parts]
        if self.workers > 1:
            self._in_threads(tasks)
        else:
            for task in tasks:
                task()
        return y

    def _run(self, x: Array, kernel: Any, bias: Array | None, y: Array, one: _Part) -> None:
        """Convolve one tile."""
        algorithm, (total, result), xp = self.algorithm, self.dtypes, self.xp
        image = self._padded(x[one.source], one.margins)
        if algorithm.write is not None and (result == total or (bias is None and algorithm.takes(result, total))):
            algorithm.write(image, kernel, one.problem, xp, y[one.target])
            if bias is not None:
                y[one.target] += bias
            return
        found = algorithm.run(image, kernel, one.problem, xp)
        if bias is not None:
            found += bias
        y[one.target] = found if result == total else xp.astype(found, result)

    def _padded(self, x: Array, margins: tuple[tuple[int, int], ...]) -> Array:
        """One tile's image, as the algorithm takes it."""
        order, xp = self.problem.memory_order, self.xp
        if not self.algorithm.takes(x.dtype, self.dtypes.total):
            x = xp.astype(x, self.dtypes.total)
        if self._pads:
            return x
        back = tuple(map(order.index, range(len(order))))
        widths = [(0, 0), (0, 0), (0, 0), *margins]
        return xp.permute_dims(pad(xp.permute_dims(x, order), [widths[axis] for axis in order], "constant", xp), back)
