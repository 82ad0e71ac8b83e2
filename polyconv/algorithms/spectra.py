"""Overlap-save in one pass over the image, compiled: no transformed image is ever stored as a whole.

As many blocks as a vector has lanes are gathered, transformed, multiplied and transformed back at a time, and stay in
cache meanwhile (Zlateski, Jia, Li & Durand, "FFT convolutions are faster than Winograd on modern CPUs, here is why",
arXiv:1809.07851). Where the zeros around an image are as wide as what a circular convolution spoils, one block may be
shorter than the image with its margins.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array, address, aligned, every, memory, offsets
from ..problem import ConvProblem
from .base import Cost
from .blocking import VECTOR_BYTES
from .interleaved import interleave

__all__ = ["cost", "kept", "lengths", "prepare", "prepare_cost", "sizes", "units", "whole", "write"]

_RADICES = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16)
_FLAT = 8  # rows of a block along an axis without taps


@lru_cache
def factors(n: int) -> tuple[int, int] | None:
    """Two factors of a length, both of straight-line code and near to each other; None where there are none."""
    pairs = [(n // s, s) for s in _RADICES if n % s == 0 and n // s in _RADICES]
    return min(pairs, key=lambda pair: (max(pair), pair)) if pairs else None


@lru_cache(maxsize=1)
def lengths() -> tuple[int, ...]:
    """Every length that blocks may have, in order."""
    return tuple(sorted({r * s for r in _RADICES for s in _RADICES}))


class Axis(NamedTuple):
    """One axis cut into blocks of ``length``, which are transforms of as many ``points``, or of one each."""

    length: int
    points: int
    outputs: int
    starts: range


def _flat(length: int, outputs: int) -> Axis:
    """An axis without taps: rows that have nothing to do with each other."""
    length = min(length, outputs)
    return Axis(length, 1, length, range(0, outputs, length))


def _axis(length: int, kernel: int, size: int, outputs: int, padding: tuple[int, int]) -> Axis:
    low, _ = padding
    # Of a single block, what goes round may fall on zeros.
    fits = length >= max(outputs + kernel - 1 - low, size + low)
    step = outputs if fits else length - kernel + 1
    return Axis(length, length, step, range(0, outputs, step))


class Form(NamedTuple):
    """A problem with two axes at least, and its axes; ``folded`` where images are one of them."""

    p: ConvProblem
    axes: tuple[Axis, ...]
    wide: bool
    folded: bool


@lru_cache
def form(p: ConvProblem, block: tuple[int, ...], lanes: int) -> Form:
    """The form in which the loops take a problem without stride and dilation."""
    folded = p.ndim == 1
    if folded:
        block = (_FLAT, *block)
        p = replace(
            p, batch=1, size=(p.batch, *p.size), kernel=(1, *p.kernel), stride=(1, 1), dilation=(1, 1),
            padding=((0, 0), *p.padding),
        )  # fmt: skip
    *first, last = zip(block, p.kernel, p.size, p.output_size, p.padding, strict=True)
    axes = [_flat(axis[0], axis[3]) if axis[1] == 1 else _axis(*axis) for axis in first]
    return Form(p, (*axes, _axis(*last)), p.groups >= lanes, folded)


@cache  # tables hold their addresses for good, and lengths are few
def _twiddles(points: int, dtype: object) -> tuple[tuple[int, int], Array]:
    """The two factors of a transform and the roots of unity between them."""
    found = factors(points)
    assert found is not None
    r, s = found
    table = aligned((s, r, 2), dtype)
    for j, k in product(range(s), range(r)):
        root = cmath.exp(-2j * math.pi * j * k / points)
        table[j, k, 0], table[j, k, 1] = root.real, root.imag
    return found, table


def _plans(axes: tuple[Axis, ...], dtype: object, xp: ModuleType) -> Array:
    """For every axis, what :func:`polyconv.compiled.butterflies.transform` is told."""
    from ..compiled import butterflies

    rows = []
    for axis in axes:
        (r, s), table = _twiddles(axis.points, dtype)
        rows.append((axis.points, r, s, address(table), butterflies.code(str(dtype))))
    return xp.asarray(rows, dtype=xp.int64)


def _half(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    """Frequencies along every axis."""
    return (*(axis.points for axis in axes[:-1]), axes[-1].points // 2 + 1)


def _work(
    axes: Sequence[int], lanes: int, like: Array, members: int, xp: ModuleType
) -> tuple[Array, tuple[int, int, Array]]:
    """Workspace of the loops beside that for spectra, and what they are told of it."""
    room = aligned((members * 4 * (max(axes) + lanes) * 2 * lanes,), like.dtype)
    return room, (address(room), like.itemsize, xp.zeros((members, 5 + 2 * len(axes), lanes), dtype=xp.int64))


def prepare(w: Array, p: ConvProblem, block: tuple[int, ...], xp: ModuleType) -> Array:
    """What :func:`write` reads of a kernel ``(G, K, C, *kernel)``: its conjugate spectrum, flat.

    Where lanes hold groups it is ``(G / lanes, K, C, *points, 2, lanes)``, else ``(G, K, C, *points, 2)``; of all
    points those along the first axis come last.
    """
    from ..compiled import spectra, vectors

    lanes = vectors.VECTOR_BYTES // p.itemsize
    p, axes, wide, _folded = form(p, block, lanes)
    w = xp.reshape(w, (p.groups, p.filters, p.channels, *p.kernel))
    groups = -(-p.groups // lanes) * lanes
    if wide:
        items = aligned((p.filters, p.channels, groups, *p.kernel), w.dtype)
        items[:, :, p.groups :] = 0
        items[:, :, : p.groups] = xp.permute_dims(w, (1, 2, 0, *range(3, w.ndim)))
    else:
        items = xp.ascontiguousarray(w)
    number, half = math.prod(items.shape[:3]), _half(axes)
    blocks = -(-number // lanes)
    made = aligned((blocks, *half, 2, lanes), w.dtype)
    points = tuple(axis.points for axis in axes)
    _room, work = _work(points, lanes, w, 1, xp)
    steps = tuple(math.prod(p.kernel[axis:]) for axis in range(p.ndim + 1))
    spectra.kernel(
        w.dtype.type(0), False, number, points, _plans(axes, w.dtype, xp), address(items), p.kernel, steps,
        address(made), work,
    )  # fmt: skip
    scale = 0.25 / math.prod(points)  # each of two transforms forwards is twice too large
    made[..., 0, :] *= scale
    made[..., 1, :] *= -scale
    # A line along the first axis is to be met from one end to the other.
    made = xp.reshape(made, (blocks, half[0], -1, 2, lanes))
    if wide:
        made = xp.reshape(made, (p.filters, p.channels, groups // lanes, *made.shape[1:]))
        made = xp.permute_dims(made, (2, 0, 1, 4, 3, 5, 6))
        packed = aligned(made.shape, w.dtype)
        packed[...] = made
    else:
        made = xp.permute_dims(made, (0, 4, 2, 1, 3))
        packed = aligned((number, *made.shape[2:]), w.dtype)
        packed[...] = xp.reshape(made, (blocks * lanes, *made.shape[2:]))[:number]
    return xp.reshape(packed, (-1,))


class _Tables(NamedTuple):
    """What the loops are told of blocks and of the kernel's frequencies."""

    lengths: tuple[int, ...]
    most: tuple[int, ...]
    plans: Array
    firsts: Array
    lines: Array
    step: int
    each: int


@lru_cache(maxsize=64)
def _tables(p: ConvProblem, block: tuple[int, ...], lanes: int, dtype: object, xp: ModuleType) -> _Tables:
    p, axes, wide, _ = form(p, block, lanes)
    half, number = _half(axes), lanes if wide else 1
    steps = [2 * number * half[0] * math.prod(half[axis + 1 :]) for axis in range(len(half))]
    middle = [
        every(axis.length, step if axis.points > 1 else 0) for axis, step in zip(axes[1:-1], steps[1:-1], strict=True)
    ]
    return _Tables(
        tuple(axis.length for axis in axes),
        tuple(axis.outputs for axis in axes),
        _plans(axes, dtype, xp),
        xp.asarray([*product(*(axis.starts for axis in axes))], dtype=xp.int64),
        offsets((*middle, every(half[-1], steps[-1])), xp),
        2 * number,
        math.prod(half) * 2 * number,
    )


def _planes(x: Array, wide: bool, copies: bool, xp: ModuleType) -> tuple[Array, bool]:
    """An array that the loops can take, and whether its channels are interleaved: themselves lanes."""
    interleaved = wide and x.strides[1] == x.itemsize and x.shape[1] > 1
    if interleaved or x.strides[-1] == x.itemsize:
        return x, interleaved
    planes = aligned(x.shape, x.dtype)
    if copies:
        interleave(x, planes, back=True)
    return planes, False


def straight(p: ConvProblem, block: tuple[int, ...]) -> bool:
    """Whether the image and the result are met as they lie in memory, and not copied to planes of their own."""
    if not (p.channels_last and p.groups * max(p.channels, p.filters) > 1):
        return True
    return p.channels == p.filters == 1 and form(p, block, VECTOR_BYTES // p.itemsize)[2]


def _turns(q: ConvProblem, axes: Sequence[Axis], wide: bool, lanes: int) -> int:
    """How often as many blocks as there are lanes are convolved."""
    number = q.batch * math.prod(len(axis.starts) for axis in axes)
    return number * -(-q.groups // lanes) if wide else q.groups * -(-number // lanes)


def units(p: ConvProblem, block: tuple[int, ...]) -> int:
    """How many units the loops have; none where the image is copied first."""
    lanes = VECTOR_BYTES // p.itemsize
    q, axes, wide, _ = form(p, block, lanes)
    return _turns(q, axes, wide, lanes) if straight(p, block) else 0


def write(
    x: Array, kernel: Array, p: ConvProblem, block: tuple[int, ...], xp: ModuleType, y: Array, workers: int = 1
) -> None:
    """Convolve into ``y``; ``p`` has neither strides nor dilation."""
    from ..compiled import spectra, vectors

    lanes = vectors.VECTOR_BYTES // p.itemsize
    t = _tables(p, block, lanes, x.dtype, xp)
    q, axes, wide, folded = form(p, block, lanes)
    made, y_interleaved = _planes(y, wide, False, xp)
    x, x_interleaved = _planes(x, wide, True, xp)
    x, x_steps = memory(x)
    result, y_steps = memory(made)
    if folded:
        x_steps, y_steps = ((0, *steps[1:3], steps[0], *steps[3:]) for steps in (x_steps, y_steps))
    size = math.prod(t.lengths[:-1]) * (t.lengths[-1] // 2 + 1) * 2 * lanes
    transformed = aligned((workers * (q.channels + (q.filters > 1)) * size,), x.dtype)
    _room, work = _work(t.lengths, lanes, x, workers, xp)
    there = address(transformed)
    spectra.convolve(
        workers, _turns(q, axes, wide, lanes),
        x.dtype.type(0), wide, (x_interleaved, y_interleaved), q.batch, q.groups, q.channels, q.filters,
        t.lengths, t.plans, t.firsts, tuple(low for low, _ in q.padding),
        address(x), q.size, x_steps, address(kernel), t.lines, t.each * q.filters * q.channels, t.each, t.step,
        address(result), q.output_size, t.most, y_steps,
        there, there + (q.channels * size * p.itemsize if q.filters > 1 else 0), work,
    )  # fmt: skip
    if made is not y:
        interleave(made, y)


# -- which blocks, and their cost ----------------------------------------------------------------------------


def _least(length: float) -> int:
    """The least length of at least ``length`` that blocks may have; the greatest where there is none."""
    return next((known for known in lengths() if known >= length), lengths()[-1])


def whole(p: ConvProblem) -> tuple[int, ...]:
    """A block for the whole image, if there is one so long."""
    needed = (
        max(n + k - 1 - low, size + low)
        for n, k, size, (low, _) in zip(p.output_size, p.kernel, p.size, p.padding, strict=True)
    )
    return tuple(max(_least(length), _least(k)) for length, k in zip(needed, p.kernel, strict=True))


def sizes(p: ConvProblem) -> tuple[tuple[int, ...], ...]:
    """Blocks worth a thought: of one and a half kernels to eight, and never longer than the image needs."""
    if max(p.kernel) > lengths()[-1]:
        return ()
    most = whole(p)
    found = (
        tuple(min(_least(factor * k), length) for k, length in zip(p.kernel, most, strict=True))
        for factor in (1.5, 2, 2.5, 3, 4, 6, 8)
    )
    return tuple(dict.fromkeys(found))


def kept(p: ConvProblem, block: tuple[int, ...]) -> int:
    """Elements of a prepared kernel."""
    lanes = VECTOR_BYTES // p.itemsize
    p, axes, wide, _ = form(p, block, lanes)
    groups = -(-p.groups // lanes) * lanes if wide else p.groups
    return 2 * groups * p.filters * p.channels * math.prod(_half(axes))


def _cycles(points: int) -> float:
    """What a transform of one line takes, from a near cache to it."""
    return 2.0 * points * math.log2(points) if points > 1 else 0.0


# Cycles for a point of a line beside its transform: gathered or put in place, and taken apart into two rows; the same
# for every lane of them that are not neighbours in memory; read from a far cache and written there; multiplied. And for
# every lane of two rows.
_ROW, _TURNED, _LINE, _PRODUCT, _PAIR = 24.0, 0.9, 6.0, 12.0, 38.0


def cost(p: ConvProblem, block: tuple[int, ...]) -> Cost:
    """What :func:`write` costs, but for its rounding error."""
    lanes, item = VECTOR_BYTES // p.itemsize, p.itemsize
    interleaved = p.channels_last and p.groups * max(p.channels, p.filters) > 1
    turned = 0 if straight(p, block) else p.image_elements + p.output_elements
    p, axes, wide, folded = form(p, block, lanes)
    *first, last = axes
    number = p.batch * math.prod(len(axis.starts) for axis in axes)
    blocks = number * -(-p.groups // lanes) if wide else p.groups * -(-number // lanes)
    rows = math.prod(axis.length for axis in first)
    # Rows of nothing but margins are not transformed.
    seen, made = (
        math.prod(min(axis.length, most) for axis, most in zip(first, extents, strict=True))
        for extents in (p.size[:-1], [axis.outputs for axis in first])
    )
    pairs = p.channels * -(-seen // 2) + p.filters * -(-made // 2)
    row = _PAIR * lanes + _cycles(last.points)
    row += last.points * (_ROW + (0 if wide and interleaved and not turned else _TURNED * lanes))
    every = rows * (last.points // 2 + 1)
    lines = sum(every // axis.points * (_cycles(axis.points) + axis.points * _LINE) for axis in first[1:])
    lines += every // first[0].points * _cycles(first[0].points) + every * _LINE
    products = p.channels * p.filters * every * _PRODUCT
    size = 2 * every * lanes
    spectra = (p.channels + (p.filters > 1)) * size
    own = spectra + 8 * (max(axis.length for axis in axes) + lanes) * lanes
    cycles = blocks * (pairs * row + (p.channels + p.filters) * lines + products)
    kernel = 2 * p.groups * p.filters * p.channels * math.prod(_half(axes))
    return Cost(
        loop_slots=int(2 * lanes * cycles),
        other_flops=int(blocks * lanes * (p.channels + p.filters) * 2.5 * 2 * every * math.log2(2 * every)),
        traffic=(p.image_elements + p.output_elements + 2 * turned + kernel * (number if wide else 1)) * item,
        runs=turned // 4,
        calls=30,
        each=own * item,
        workspace=(own + turned + p.image_elements) * item + 8 * (number * p.ndim + every),
        grain=(last if folded else first[0]).outputs,
    )


def prepare_cost(p: ConvProblem, block: tuple[int, ...]) -> Cost:
    """What :func:`prepare` costs."""
    lanes, item = VECTOR_BYTES // p.itemsize, p.itemsize
    q, axes, _wide, _ = form(p, block, lanes)
    *first, last = axes
    points = math.prod(axis.points for axis in first)
    kernels = -(-q.groups * q.filters * q.channels // lanes)
    pairs = -(-math.prod(q.kernel[:-1]) // 2)
    every = points * (last.points // 2 + 1)
    cycles = pairs * (_PAIR * lanes + _cycles(last.points) + last.points * (_ROW + _TURNED * lanes))
    cycles += sum(every // axis.points * (_cycles(axis.points) + axis.points * _LINE) for axis in first)
    held = kept(p, block)
    return Cost(
        loop_slots=int(2 * lanes * kernels * cycles),
        other_flops=int(kernels * lanes * 2.5 * 2 * every * math.log2(2 * every)),
        traffic=(2 * q.kernel_elements + 4 * held) * item,
        runs=held // lanes,
        calls=30,
        workspace=(q.kernel_elements + 2 * kernels * lanes * 2 * every + held) * item,
        kept=held * item,
    )
