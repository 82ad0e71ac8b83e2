"""Cutting a problem into tiles: some images, or some rows or some groups of channels of one image, at a time.

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
from .algorithms.direct import add
from .arrays import Array, inverse, new
from .dtypes import Dtypes
from .padding import pad
from .pool import rouse, run_all
from .problem import ConvProblem

__all__ = ["Tile", "Tiles", "count", "cut", "multiplies", "part", "units", "whole"]


_SIDE_BY_SIDE = 16  # groups that stay together: vectors hold so many, and a line of the cache


class Tile(NamedTuple):
    """How many images, and how many output rows of each (along the first spatial axis), are convolved at a time.

    And how many groups of channels, with what is left over, where fewer than that are; zero stands for all.
    """

    images: int
    rows: int
    groups: int = 0


def whole(p: ConvProblem) -> Tile:
    """The one tile that is the problem itself."""
    return Tile(p.batch, p.output_size[0])


def _stretches(p: ConvProblem, tile: Tile) -> tuple[slice, ...]:
    """The groups of channels that are convolved at a time, each stretch with its own kernel; the last is widest."""
    some = tile.groups or p.groups
    starts = range(0, max(p.groups - some, 0) + 1, some)
    return tuple(map(slice, starts, [*starts[1:], p.groups]))


@lru_cache  # few tiles differ, and their problems remember what they have worked out
def part(p: ConvProblem, tile: Tile, pads: bool = False) -> ConvProblem:
    """The problem that ``tile`` poses once its margins are there, but for those of whole axes where it ``pads``."""
    widest = _stretches(p, tile)[-1]
    groups = widest.stop - widest.start
    if pads and tile.rows == p.output_size[0]:
        return replace(p, batch=tile.images, groups=groups)
    sides = p if pads else p.padded
    p = p.padded
    rows = p.window(0, 0, tile.rows)[0]
    return replace(
        p,
        batch=tile.images,
        groups=groups,
        size=(rows.stop - rows.start, *sides.size[1:]),
        padding=((0, 0), *sides.padding[1:]),
    )


def count(p: ConvProblem, tile: Tile) -> int:
    """How many tiles cover the problem."""
    return -(-p.batch // tile.images) * len(_stretches(p, tile)) * -(-p.output_size[0] // tile.rows)


def cut(p: ConvProblem, workspace: Callable[[Tile], float], limit: float, grain: int, by_groups: bool = False) -> Tile:
    """The largest tile, found by halving, whose ``workspace`` is within ``limit`` bytes; the smallest if none is.

    Images are halved first: one image holds together what the next tile would have to read again. Then groups are, if
    it is to be cut ``by_groups``, and then rows, which are kept in multiples of ``grain``, down to one such.
    """
    tile = whole(p)
    least = _SIDE_BY_SIDE if by_groups else p.groups
    while (tile.images > 1 or (tile.groups or p.groups) > least or tile.rows > grain) and workspace(tile) > limit:
        images, rows, groups = tile
        if images > 1:
            tile = Tile(-(-images // 2), rows)
        elif (groups or p.groups) > least:
            tile = Tile(1, rows, -(-(groups or p.groups) // (2 * least)) * least)
        else:
            tile = Tile(1, -(-rows // (2 * grain)) * grain, groups)
    return tile


def _intervals(extent: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, extent)) for start in range(0, extent, step))


class _Part(NamedTuple):
    """One tile: what it reads of the image and writes of the result, its problem, and the zeros that it wants."""

    source: tuple[Any, ...]
    target: tuple[Any, ...]
    problem: ConvProblem
    margins: tuple[tuple[int, int], ...]
    stretch: int


def _parts(p: ConvProblem, tile: Tile, pads: bool) -> tuple[_Part, ...]:
    """The tiles of a problem; where the algorithm ``pads``, their problems have the margins."""
    found = []
    for (first, last), (stretch, groups), (top, bottom) in product(
        _intervals(p.batch, tile.images), enumerate(_stretches(p, tile)), _intervals(p.output_size[0], tile.rows)
    ):
        rows, margin = p.window(0, top, bottom)
        margins = (margin, *p.padding[1:])
        here = replace(part(p, Tile(last - first, bottom - top)), groups=groups.stop - groups.start)
        if pads:
            here = replace(here, size=(rows.stop - rows.start, *p.size[1:]), padding=margins)
        images, everything = slice(first, last), slice(None)
        source, target = (images, groups, everything, rows), (images, groups, everything, slice(top, bottom))
        found.append(_Part((*source, ...), (*target, ...), here, margins, stretch))
    return tuple(found)


@lru_cache
def multiplies(algorithm: Algorithm, p: ConvProblem) -> bool:
    """Whether an algorithm multiplies matrices, and so has BLAS at work."""
    return algorithm.cost(p).matmul_macs > 0


def units(algorithm: Algorithm, p: ConvProblem, dtypes: Dtypes, workers: int) -> int:
    """How many units threads can share of an algorithm's loops over an image of the dtype of its sums, as it is."""
    as_it_is = algorithm.pads(p) or not any(map(any, p.padding))
    if algorithm.write is None or algorithm.shares is None or dtypes.total != dtypes.result or not as_it_is:
        return 0
    return algorithm.shares(p, workers)


@dataclass(frozen=True, eq=False)
class Tiles:
    """An algorithm to be run tile by tile: ``x`` is ``(N, G, C, *size)``, what comes back ``(N, G, K, *output_size)``.

    Zeros that ``problem`` wants around the image are added to each tile, the ``bias``, ``(G, K, 1, ...)``, to its
    result, and it is cast there to the dtype of the sums and back, as far as the algorithm does not do so by itself:
    nothing as large as the image is made but what comes back. With several ``workers``, tiles are run on as many
    threads, which share the loops of the one tile that is everything.
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
    def _shared(self) -> bool:
        """Whether threads share the algorithm's loops over the whole image, and not tiles."""
        all_of_it = self.tile == whole(self.problem)
        return self.workers > 1 and all_of_it and units(self.algorithm, self.problem, self.dtypes, self.workers) > 1

    @cached_property
    def _in_threads(self) -> Callable[[Iterable[Callable[[], object]]], None]:
        """What runs tasks, of a tile each."""
        cost = self.algorithm.cost(self._parts[0].problem)
        return partial(run_all, workers=self.workers, blas=cost.matmul_macs > 0, loops=cost.loop_slots > 0)

    def prepare(self, w: Array) -> tuple[Any, ...]:
        """The kernel ``(G, K, C, *kernel)`` as the algorithm takes it, one for each stretch of groups."""
        stretches, make = _stretches(self.problem, self.tile), self.algorithm.prepare
        if make is None:
            return tuple(w[groups, ...] for groups in stretches)
        padded = self.problem.padded
        return tuple(
            make(w[groups, ...], replace(padded, groups=groups.stop - groups.start), self.xp) for groups in stretches
        )

    def __call__(self, x: Array, kernel: tuple[Any, ...], bias: Array | None) -> Array:
        """Convolve an image."""
        p, shared = self.problem, self._shared and x.dtype == self.dtypes.total
        members = rouse(self.workers) if shared else 1  # first: who must be woken takes a while
        y = new(self.xp.empty, p.result_shape, p.memory_order, self.dtypes.result, self.device, self.xp)
        if shared:
            assert self.algorithm.write is not None
            self.algorithm.write(x, kernel[0], p, self.xp, y, members)
            if bias is not None:
                add(y, bias, p, members)
            return y
        tasks = [partial(self._run, x, kernel, bias, y, one) for one in self._parts]
        if self.workers > 1:
            self._in_threads(tasks)
        else:
            for task in tasks:
                task()
        return y

    def _run(self, x: Array, kernels: tuple[Any, ...], bias: Array | None, y: Array, one: _Part) -> None:
        """Convolve one tile."""
        kernel = kernels[one.stretch]
        if bias is not None:
            bias = bias[_stretches(self.problem, self.tile)[one.stretch], ...]
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
        widths = [(0, 0), (0, 0), (0, 0), *margins]
        padded = pad(xp.permute_dims(x, order), [widths[axis] for axis in order], "constant", xp)
        return xp.permute_dims(padded, inverse(order))
