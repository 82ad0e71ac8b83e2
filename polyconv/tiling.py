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
from .arrays import Array, device
from .pool import run_all
from .problem import ConvProblem

__all__ = ["Tile", "convolve", "count", "cut", "part", "whole"]


class Tile(NamedTuple):
    """How many images, and how many output rows of each (along the first spatial axis), are convolved at a time."""

    images: int
    rows: int


def whole(p: ConvProblem) -> Tile:
    """The one tile that is the problem itself."""
    return Tile(p.batch, p.output_size[0])


@lru_cache  # few tiles differ, and their problems remember what they have worked out
def part(p: ConvProblem, tile: Tile) -> ConvProblem:
    """The problem that ``tile`` poses; ``p`` carries its padding already."""
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


def convolve(
    algorithm: Algorithm, x: Array, kernel: Any, p: ConvProblem, tile: Tile, workers: int, xp: ModuleType
) -> Array:
    """Run ``algorithm`` tile by tile: ``x`` is ``(N, G, C, *size)``, the result ``(N, G, K, *output_size)``.

    With several ``workers``, tiles are run on as many threads.
    """
    order = p.memory_order
    y = xp.empty(tuple(p.result_shape[axis] for axis in order), dtype=x.dtype, device=device(x))
    y = xp.permute_dims(y, tuple(map(order.index, range(len(order)))))

    def run(images: tuple[int, int], outputs: tuple[int, int]) -> None:
        (first, last), (top, bottom) = images, outputs
        rows, _ = p.window(0, top, bottom)
        here = part(p, Tile(last - first, bottom - top))
        y[first:last, :, :, top:bottom, ...] = algorithm.run(x[first:last, :, :, rows, ...], kernel, here, xp)

    tiles = product(_intervals(p.batch, tile.images), _intervals(p.output_size[0], tile.rows))
    if workers > 1:
        run_all((partial(run, *corner) for corner in tiles), workers)
    else:
        for corner in tiles:
            run(*corner)
    return y
