"""Cutting a problem into tiles: some images, or some rows of one image, at a time.

A tile is the same convolution of a smaller image, so every algorithm can be cut, and knows nothing of it. It pays
twice: what an algorithm stores on its way (the columns of ``im2col``, say, nine times the image) stays in cache
and is the same memory again for every tile; and it never grows beyond a limit, however large the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

from .algorithms import Algorithm
from .arrays import Array, device, new
from .dtypes import Dtypes
from .padding import pad
from .pool import run_all
from .problem import ConvProblem

__all__ = ["Tile", "convolve", "count", "cut", "multiplies", "part", "whole"]


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


@lru_cache(maxsize=256)
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


@lru_cache
def loops(algorithm: Algorithm, p: ConvProblem) -> bool:
    """Whether an algorithm runs compiled loops."""
    return algorithm.cost(p).loop_slots > 0


def convolve(
    algorithm: Algorithm,
    x: Array,
    kernel: Any,
    bias: Array | None,
    p: ConvProblem,
    tile: Tile,
    workers: int,
    dtypes: Dtypes,
    xp: ModuleType,
) -> Array:
    """Run ``algorithm`` tile by tile: ``x`` is ``(N, G, C, *size)``, what comes back ``(N, G, K, *output_size)``.

    Zeros that ``p`` wants around the image are added to each tile, the ``bias``, ``(G, K, 1, ...)``, to its result,
    and it is cast there to the dtype of the sums and back: nothing as large as the image is made but what
    comes back. With several ``workers``, tiles are run on as many threads.
    """
    order, (total, result) = p.memory_order, dtypes
    back = tuple(map(order.index, range(len(order))))
    y = new(xp.empty, p.result_shape, order, result, device(x), xp)
    write, pads = algorithm.write if result == total else None, algorithm.pads(p)

    def padded(x: Array, margins: tuple[tuple[int, int], ...]) -> Array:
        if x.dtype != total:
            x = xp.astype(x, total)
        if pads:
            return x
        widths = [(0, 0), (0, 0), (0, 0), *margins]
        return xp.permute_dims(pad(xp.permute_dims(x, order), [widths[axis] for axis in order], "constant", xp), back)

    def run(one: _Part) -> None:
        image = padded(x[one.source], one.margins)
        if write is not None:
            write(image, kernel, one.problem, xp, y[one.target])
            if bias is not None:
                y[one.target] += bias
            return
        found = algorithm.run(image, kernel, one.problem, xp)
        if bias is not None:
            found += bias
        y[one.target] = found if result == total else xp.astype(found, result)

    parts = _parts(p, tile, pads)
    if workers > 1:
        here = parts[0].problem
        run_all([partial(run, one) for one in parts], workers, multiplies(algorithm, here), loops(algorithm, here))
    else:
        for one in parts:
            run(one)
    return y
