"""Direct convolution: the nested loops of the definition, compiled, with the result in registers.

Zhang, Franchetti & Low, "High performance zero-memory overhead direct convolutions" (arXiv:1809.10170), by way of the
indirect convolution of :mod:`polyconv.compiled.microkernel`. The loops run in whichever order reads and writes memory
along its grain, so neither layout is transposed; only where space is innermost, and rows are short or filters many, are
windows unrolled, a few at a time, into a panel that stays in cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, address, aligned, every, memory, new, offsets, outgrows
from ..problem import ConvProblem
from ..rounding import direct
from . import edges, sliding, sums
from .base import Algorithm, Cost
from .blocking import BEGIN, ENDLESS, REGISTERS, SOME, TALL, VECTOR_BYTES, Block, block
from .interleaved import interleaved
from .strips import STRIPS

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["DEPTH", "DIRECT", "LOOPS", "add"]

DEPTH = 256  # taps at a time: their part of the kernel stays in a near cache
_NEAR = 200  # positions at a time, whose windows stay in cache
_NEAR_BYTES = 24_576  # of what a block of outputs reads again and again, in the nearest cache
_FAR_BYTES = 524_288  # of a kernel that another cache than the nearest two may have to hold
_CLEARLY = 0.92  # of the other's time, that the one has to promise whose rows may leave blocks half empty
# Times as long as counted a block takes: of positions, whose pixels come from rows wherever these lie, and of panels.
_ROWS, _PANELS = 1.2, 1.5
_FEWEST = 8  # registers that are left for sums, however far apart pixels lie
_FURTHEST = 16  # pixels of neighbouring outputs lie apart, at most, that are brought together in registers


def _depth(p: ConvProblem) -> int:
    """Taps at a time: about as many as a near cache holds, and all of them if they are not many more."""
    taps = p.channels * p.taps
    return -(-taps // max(1, round(taps / DEPTH)))


def over(p: ConvProblem) -> str:
    """What the vectors of the loops hold: filters, positions, panels, or whatever kernels slide over, line by line.

    Panels are positions whose windows are unrolled first, which pays where rows are short, or meet many filters.
    """
    if p.channels == p.filters == 1:
        return "lines"
    if p.channels_last:
        return "lines" if _slides(p) else "filters"
    return "panels" if _unrolls(p) else "positions"


def _kind(p: ConvProblem) -> str:
    """The same for parts of images as well, some too narrow for vectors of positions, whose margins are masked yet."""
    kind = over(p)
    return "positions" if kind == "panels" and any(map(any, p.padding)) else kind


@lru_cache(maxsize=1024)
def _slides(p: ConvProblem) -> bool:
    """Whether, of an image with channels innermost, kernels that slide take less time than filters by themselves."""
    lanes = VECTOR_BYTES // p.itemsize
    if p.taps * p.channels * VECTOR_BYTES > _NEAR_BYTES:
        return False
    return sliding.block(p, REGISTERS, lanes)[1] < _CLEARLY * _blocked(p, "filters", REGISTERS, lanes)[1]


@lru_cache(maxsize=1024)
def _unrolls(p: ConvProblem) -> bool:
    """Whether, of an image with space innermost, panels take less time than positions by themselves."""
    lanes = VECTOR_BYTES // p.itemsize
    return _blocked(p, "panels", REGISTERS, lanes)[1] < _blocked(p, "positions", REGISTERS, lanes)[1]


def _blocked(p: ConvProblem, kind: str, registers: int, lanes: int) -> tuple[Block, float]:
    """The block for vectors of a ``kind``, see :func:`over`, and the cycles that it takes if nothing else does."""
    positions, taps = p.batch * p.positions, p.channels * p.taps
    if kind == "filters":
        found, cycles = block(ENDLESS, -(-p.filters // lanes), 1, 1, registers, SOME)
        cycles *= positions / ENDLESS * taps
    elif kind == "positions":
        # Pixels that lie apart take so many loads, and registers for how they come together. Those that a block sees by
        # some taps have room in the nearest cache, since the next filters see them again.
        vectors, step = -(-p.output_size[-1] // lanes), min(edges.apart(p), lanes)
        free = max(_FEWEST, registers - 4 * (step - 1))
        widest = max(1, _NEAR_BYTES * p.kernel[-1] // (max(1, _depth(p)) * step * VECTOR_BYTES))
        found, cycles = block(p.filters, vectors, 2 * step, 1, free, TALL, widest)
        blocks = -(-p.filters // found.rows) * -(-vectors // found.vectors)
        cycles = (cycles * taps * _ROWS + BEGIN * blocks) * (positions // p.output_size[-1])
    else:
        found, cycles = block(p.filters, ENDLESS, 1, 1, registers, TALL)
        row = p.output_size[-1]
        # A panel holds positions of one image, and each row of it, however short, is copied in vectors of five cycles.
        copied = p.positions // row * -(-row // lanes) * 5 * min(edges.apart(p), lanes)
        cycles = (cycles * _PANELS / ENDLESS * -(-p.positions // lanes) + copied) * p.batch * taps
    return found, cycles * p.groups


class Packed(NamedTuple):
    """A kernel in the order in which the micro-kernel reads it.

    ``w`` is flat, ``(G, panels, taps, width)``, or of planes ``(G, taps)``; ``block`` was chosen with it, whose vectors
    or rows a panel is wide, whichever stand for filters. Kernels that slide choose their block by themselves.
    """

    w: Array
    block: Block
    width: int


def _far(p: ConvProblem) -> bool:
    """Whether vectors hold positions whose pixels lie so far apart that they are brought together in memory first."""
    return edges.apart(p) > _FURTHEST and (sliding.holds(p) == "positions" or not p.channels_last)


def _near(p: ConvProblem) -> ConvProblem:
    """The problem that is then posed: the last axis has what outputs see by the first tap, then by the next."""
    if not _far(p):
        return p
    return replace(
        p,
        size=(*p.size[:-1], p.kernel[-1] * p.output_size[-1]),
        stride=(*p.stride[:-1], 1),
        dilation=(*p.dilation[:-1], p.output_size[-1]),
        padding=(*p.padding[:-1], (0, 0)),
    )


def _bring_together(x: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """Its image, zeros around ``x`` among it: the columns of ``im2col``, along the last axis."""
    outputs = xp.arange(p.output_size[-1]) * p.stride[-1]
    columns = xp.concat([outputs + column for column in edges.columns(p)])
    there = (columns >= 0) & (columns < p.size[-1])
    seen = xp.zeros((*x.shape[:-1], columns.size), dtype=x.dtype)
    seen[..., there] = x[..., columns[there]]
    return seen


def _prepare(w: Array, p: ConvProblem, xp: ModuleType) -> Packed:
    from ..compiled import microkernel

    p = _near(p)
    lanes, kind = microkernel.VECTOR_BYTES // p.itemsize, over(p)
    if kind == "lines" and sliding.holds(p) == "positions":
        own = aligned((p.groups, p.taps), w.dtype)
        own[...] = xp.reshape(w, own.shape)
        return Packed(xp.reshape(own, (-1,)), Block(1, 1), 1)
    if p.channels_last:  # filters or lines, which read the same kernel
        found, _ = _blocked(p, "filters", microkernel.REGISTERS, lanes)
        columns, width = sliding.columns(w, p, xp), found.vectors * lanes
    else:
        found, _ = _blocked(p, kind, microkernel.REGISTERS, lanes)
        order = (0, *range(3, 2 + p.ndim), 2, 2 + p.ndim, 1)  # those of a line of the kernel follow each other
        columns, width = xp.reshape(xp.permute_dims(w, order), (p.groups, -1, p.filters)), found.rows
    groups, taps, extent = columns.shape
    packed = aligned((groups, -(-extent // width), taps, width), w.dtype)
    packed[:, -1, ...] = 0
    for panel in range(packed.shape[1]):
        some = columns[:, :, panel * width : (panel + 1) * width]
        packed[:, panel, :, : some.shape[2]] = some
    return Packed(xp.reshape(packed, (-1,)), found, width)


def _absorbs(p: ConvProblem) -> bool:
    """Where vectors hold positions, edges are masked; of filters, they see the taps that meet the image, if few.

    Windows are unrolled from an image that has its margins: to find them for each takes longer than to copy it.
    """
    return over(p) == "positions" or sliding.holds(p) == "positions" or (p.channels_last and edges.few(p))


def _evenly(number: int, most: int, workers: int) -> int:
    """How many at a time, and no more than ``most``, so that all workers have alike."""
    turns = -(-number // most)
    return -(-number // min(-(-turns // workers) * workers, number))


def _strip(p: ConvProblem, workers: int) -> tuple[int, int]:
    """How many images, or how many rows of one, are taken at a time where vectors hold filters."""
    first = p.output_size[0]
    if p.positions <= _NEAR and p.batch >= workers:
        return _evenly(p.batch, max(1, _NEAR // p.positions), workers), first
    return 1, _evenly(first, max(1, _NEAR * first // p.positions), workers)


def _units(p: ConvProblem, kind: str, width: int, workers: int) -> int:
    """How many units the loops have, see :mod:`polyconv.compiled.loops`; vectors of positions have ``width`` in all."""
    if kind == "filters":
        images, rows = _strip(p, workers)
        strips = -(-p.batch // images) * -(-p.output_size[0] // rows)
    elif kind == "positions":
        strips = p.batch * p.positions // p.output_size[-1]
    else:
        strips = p.batch * -(-p.positions // width)
    return strips * p.groups


class _Told(NamedTuple):
    """How many units the loops have, and what they are told: operands without their addresses, and the rest."""

    units: int
    depth: int
    x: tuple[Any, ...]
    w: tuple[Any, ...]
    y: tuple[Any, ...]
    rest: tuple[Any, ...]


class _Region(NamedTuple):
    """Outputs that see the same taps: where they begin in image and result, and what the loops are told of them."""

    x: int
    y: int
    told: _Told


@lru_cache(maxsize=64)
def _regions(
    p: ConvProblem, x_strides: tuple[int, ...], y_strides: tuple[int, ...], width: int, workers: int, xp: ModuleType
) -> tuple[tuple[_Region, ...], tuple[tuple[slice, ...], ...]]:
    """The regions of a problem with margins, and what of the result sees nothing but those."""
    regions, zeros = [], []
    steps = [math.prod(p.kernel[axis + 1 :]) * p.channels * width for axis in range(p.ndim)]
    for part in edges.parts(p):
        if part.problem is None:
            zeros.append(part.result)
            continue
        x, y = (
            sum(some.start * step for some, step in zip(place, strides[3:], strict=True))
            for place, strides in ((part.image, x_strides), (part.result, y_strides))
        )
        taps = tuple(
            range(some.start * step, some.stop * step, step) for some, step in zip(part.kernel, steps, strict=True)
        )
        told = _strips(part.problem, x_strides, y_strides, width, workers, xp, taps, p.taps)
        regions.append(_Region(x, y, told))
    return tuple(regions), tuple(zeros)


def _strips(
    p: ConvProblem,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
    width: int,
    workers: int,
    xp: ModuleType,
    w_taps: tuple[Sequence[int], ...],
    all_taps: int,
) -> _Told:
    """Tables of offsets, lengths and steps, for vectors of filters, of a problem without margins; see :func:`over`.

    ``w_taps``, for each axis, is where in the kernel, which has ``all_taps`` of them, its taps lie.
    """
    first = p.output_size[0]
    x_image, x_group, x_channel, *x_space = x_strides
    y_image, _, _, *y_space = y_strides
    x_steps = [every(n, step * s) for n, step, s in zip(p.output_size, p.stride, x_space, strict=True)]
    y_steps = [every(n, s) for n, s in zip(p.output_size, y_space, strict=True)]
    taps = [every(n, step * s) for n, step, s in zip(p.kernel, p.dilation, x_space, strict=True)]
    images, rows = _strip(p, workers)
    if images > 1 or rows == first:
        x_starts, y_starts = (every(images, x_image), *x_steps), (every(images, y_image), *y_steps)
        strips = (0, 0, p.batch * p.positions, images * x_image, images * y_image)
    else:
        x_starts, y_starts = (x_steps[0][:rows], *x_steps[1:]), (y_steps[0][:rows], *y_steps[1:])
        strips = (x_image, y_image, p.positions, rows * p.stride[0] * x_space[0], rows * y_space[0])
    tables = (x_starts, (*taps, every(p.channels, x_channel)), y_starts, (*w_taps, every(p.channels, width)))
    x_starts, x_taps, y_starts, from_w = (offsets(axes, xp) for axes in tables)
    panel = all_taps * p.channels * width
    return _Told(
        _units(p, "filters", width, workers),
        _depth(p),
        (x_starts, x_taps, x_group),
        (from_w, panel, width),
        (y_starts,),
        (strips, p.filters, p.groups),
    )


def _stretches(some: Sequence[edges.Run], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """The lines of a kernel that a run of each axis but the last sees, as they follow each other: first and last."""
    found = [(0, 1)]
    for run, taps in zip(some, kernel, strict=False):
        if run.taps == taps:  # of all taps, the next line goes on where the last one ends
            found = [(begin * taps, end * taps) for begin, end in found]
        else:
            lines = [line for begin, end in found for line in range(begin, end)]
            found = [(line * taps + run.tap, line * taps + run.tap + run.taps) for line in lines]
    return found or [(0, 0)]


@lru_cache(maxsize=64)
def _rows(
    p: ConvProblem, kind: str, x_strides: tuple[int, ...], y_strides: tuple[int, ...], width: int, xp: ModuleType
) -> _Told:
    """Tables of offsets, lengths and steps, for vectors of positions, or for panels of them, ``width`` in all.

    A row of outputs meets the taps that meet the image along the other axes; what lies beside it is masked. Panels are
    of images without margins.
    """
    x_image, x_group, x_channel, *x_space = x_strides
    y_image, y_group, y_filter, *y_space = y_strides
    others = range(p.ndim - 1)
    columns = edges.columns(p)
    channels = every(p.channels, x_channel)
    taps = [every(p.kernel[axis], p.dilation[axis] * x_space[axis]) for axis in others]
    x_taps = offsets((*taps, channels, columns), xp)
    windows = [[(i * p.stride[a] - p.padding[a][0]) * x_space[a] for i in range(p.output_size[a])] for a in others]
    x_starts = offsets(tuple(windows), xp)
    units, depth, lengths = _units(p, kind, width, 1), _depth(p), (p.output_size[-1], width, p.groups)
    from_x, to_y = (x_image, x_group, x_taps), (y_image, y_group, offsets((every(p.filters, y_filter),), xp))
    if kind == "panels":
        return _Told(units, depth, (*from_x, x_starts), (), to_y, lengths)

    y_starts = offsets(tuple(every(p.output_size[axis], y_space[axis]) for axis in others), xp)
    nowhere = [(0,) * p.kernel[axis] for axis in others]
    x_columns = offsets((*nowhere, (0,) * p.channels, columns), xp)
    # Rows whose runs are the same along every axis see the same stretches of taps.
    runs, line = edges.runs(p)[:-1], p.channels * p.kernel[-1]
    stretches, ends = [], [0]
    for some in product(*runs):
        stretches += [(first * line, last * line) for first, last in _stretches(some, p.kernel)]
        ends.append(len(stretches))
    alike = [math.prod(map(len, runs[axis + 1 :])) for axis in others]
    numbers = [[n * alike[a] for n, run in enumerate(runs[a]) for _ in range(run.outputs)] for a in others]
    which = offsets(tuple(numbers), xp)
    begin, end = (xp.asarray(some, dtype=xp.int64)[which] for some in (ends[:-1], ends[1:]))
    tables = xp.stack([x_starts, y_starts, begin, end], axis=1), xp.asarray(stretches, dtype=xp.int64)
    frame = p.size[-1], min(columns), max(columns)
    return _Told(units, depth, (*from_x, x_columns), (), to_y, (*tables, frame, *lengths))


def _shares(p: ConvProblem, workers: int) -> int:
    """The units of all loops, where nothing is copied first."""
    if _far(p):
        return 0
    kind, lanes = _kind(p), VECTOR_BYTES // p.itemsize
    if kind == "lines":
        return sliding.units(p, REGISTERS, lanes)
    return _units(p, kind, _blocked(p, kind, REGISTERS, lanes)[0].vectors * lanes, workers)


def _write(x: Array, kernel: Packed, p: ConvProblem, xp: ModuleType, y: Array, workers: int = 1) -> None:
    """Convolve into ``y``, whose innermost axis in memory is contiguous."""
    if _far(p):
        x, p = _bring_together(x, p, xp), _near(p)
    kind = _kind(p)
    if kind == "lines":
        sliding.write(x, kernel.w, kernel.width, p, xp, y, workers)
        return
    from ..compiled import loops, microkernel

    rows, vectors = kernel.block
    width = kernel.width if kind == "filters" else vectors * (microkernel.VECTOR_BYTES // p.itemsize)
    pixels, x_strides = memory(x, None if kind == "filters" else -1)
    result, y_strides = memory(y)
    # An element's type and the lengths of tuples choose the code.
    past = (0,) if p.channels * p.taps <= _depth(p) and outgrows(result, microkernel.VECTOR_BYTES) else ()
    element, code = kernel.w[0], ((0,) * rows, (0,) * vectors, past)
    at, from_w, to = map(address, (pixels, kernel.w, result))
    if kind == "filters":
        regions, zeros = _regions(p, x_strides, y_strides, width, workers, xp)
        # Worth fetching ahead: pixels of which nobody has seen any before, and a kernel that is long out of the caches.
        x_ahead = (rows,) if p.taps == math.prod(p.stride) == p.groups == 1 and p.channels <= 2 * DEPTH else ()
        for x_first, y_first, told in regions:
            x_place, y_place = at + x_first * p.itemsize, to + y_first * p.itemsize
            w_move = -(-width // -(-told.x[0].shape[0] // rows))  # a block's share of what the kernel has for a tap
            w_ahead = (w_move,) if kernel.w.nbytes > _FAR_BYTES else ()
            loops.over_filters(
                workers, told.units, element, code, told.depth,
                (x_place, *told.x), (from_w, *told.w), (y_place, *told.y), *told.rest, (x_ahead, w_ahead, w_move),
            )  # fmt: skip
        for outputs in zeros:
            y[(..., *outputs)] = 0
        return
    told = _rows(p, kind, x_strides, y_strides, width, xp)
    apart, operands = (0,) * edges.apart(p), ((at, *told.x), (from_w, *told.w), (to, *told.y))
    if kind == "positions":
        loops.over_positions(workers, told.units, element, (*code, apart), told.depth, *operands, *told.rest)
    else:
        room = aligned((workers * told.depth * width,), x.dtype)
        loops.over_panels(
            workers, told.units, element, (*code, apart), told.depth, *operands, *told.rest, address(room)
        )


def _run(x: Array, kernel: Packed, problem: ConvProblem, xp: ModuleType) -> Array:
    """The loops of the definition around a micro-kernel, into a new array."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, x.dtype, None, xp)
    _write(x, kernel, problem, xp, y)
    return y


def add(y: Array, bias: Array, p: ConvProblem, workers: int) -> None:
    """Add a bias, ``(G, K, 1, ...)``, to a new result, which lies in memory as problems say."""
    from ..compiled import loops

    length = p.groups * p.filters if p.channels_last else p.positions
    rows = y.transpose(p.memory_order).reshape(-1, length)
    loops.add(workers, rows.shape[0], rows, bias.reshape(-1), p.channels_last)


# -- its cost ------------------------------------------------------------------------------------------------


def _cost(problem: ConvProblem) -> Cost:
    p, lanes = _near(problem), VECTOR_BYTES // problem.itemsize
    kind, kernel = over(p), p.kernel_elements * p.itemsize
    found, cycles = sliding.block(p, REGISTERS, lanes) if kind == "lines" else _blocked(p, kind, REGISTERS, lanes)
    # A kernel that no near cache holds is read again for every panel, or strip, where it is fetched ahead.
    passes = {"panels": p.batch * p.positions // (found[1] * lanes), "filters": p.batch * p.positions // _NEAR // 2}
    again = passes.get(kind, 0) * kernel if kernel > _FAR_BYTES else 0
    tables = 16 * (p.positions // p.output_size[0] + p.positions // p.output_size[-1] + _NEAR + p.channels * p.taps)
    if kind == "lines":  # where each of them begins, and each vector of one
        tables += 160 * (p.positions // p.output_size[-1]) + 80 * -(-p.output_size[-1] // lanes)
    panel = 0 if kind != "panels" else _depth(p) * 64
    # The image is copied where the caller's strides leave no vectors, which planning does not see.
    copied = 0 if p.channels_last else p.image_elements
    gathered = p.image_elements if _far(problem) else 0
    return Cost(
        other_flops=2 * p.macs,
        loop_slots=int(2 * lanes * cycles),
        traffic=(p.image_elements + p.output_elements + gathered) * p.itemsize + again,
        runs=gathered // 4,
        calls=30,
        workspace=tables + (panel + max(copied, gathered) + p.kernel_elements) * p.itemsize,
        each=panel * p.itemsize,
        error=direct(p),
    )


def _prepare_cost(p: ConvProblem) -> Cost:
    kept = p.kernel_elements * p.itemsize * 2
    return Cost(traffic=3 * kept, runs=p.kernel_elements, calls=10, workspace=kept + kept // 2, kept=kept)


def _reject(p: ConvProblem, target: Target) -> str | None:
    if target.no_numba:
        return f"direct {target.no_numba}"
    if "complex" in p.dtype or (p.dtype not in ("float32", "float64") and "int" not in p.dtype):
        return f"direct is compiled for single and double precision and for integers, not for {p.dtype}"
    return None


LOOPS = Algorithm(
    name="direct", run=_run, cost=_cost, reject=_reject, prepare=_prepare, prepare_cost=_prepare_cost, write=_write,
    shares=_shares, absorbs=_absorbs, kernel_grad=sums.sums, kernel_grad_cost=sums.cost,
)  # fmt: skip


def _variants(problem: ConvProblem, target: Target) -> tuple[Algorithm, ...]:
    """Numba's loops, in either layout, or CUDA's, whichever the target's arrays are for."""
    if target.no_cuda is None:
        return (STRIPS,)
    return (LOOPS,) if problem.channels_last else (LOOPS, interleaved(LOOPS))


def _refused(problem: ConvProblem, target: Target) -> str | None:
    return _variants(problem, target)[0].reject(problem, target)


DIRECT = replace(LOOPS, reject=_refused, variants=_variants)
