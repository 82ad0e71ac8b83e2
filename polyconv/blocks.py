"""One block of a chunked array: what is done inside a task, wherever that runs.

A block of the result is gathered from the parts that it reads (:mod:`polyconv.halo`) and goes the road that any array
goes. What does not depend on the image is done once in a process: the kernel is prepared, and a road is laid for every
shape of block.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate, product
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from . import layouts
from .algorithms import Algorithm
from .arguments import Call, Demands
from .arrays import Array, ArraySpec, describe
from .dtypes import Dtypes
from .execution import Road, road
from .halo import Piece
from .planning import quickest
from .pool import blas_in_one_thread
from .problem import ConvProblem
from .target import Target

__all__ = [
    "SMALL",
    "BlockConvolution",
    "Margins",
    "Parts",
    "Terms",
    "convolved",
    "cut",
    "forwards",
    "gathered",
    "weight_gradient",
]

SMALL = 2**16
"""Bytes of a kernel that every task carries with it and a process remembers; a larger one is an item of the graph."""
_REMEMBERED = 16  # convolutions of one process

Margins = tuple[tuple[int, int], ...]  # zeros before and behind, along each spatial axis
Parts = tuple[tuple[int, ...], Sequence[Array]]  # how many there are along each axis, and all of them, the last fastest


class Terms(NamedTuple):
    """What a convolution of blocks is, but for the kernel: the largest block's problem, and how arrays are laid out."""

    problem: ConvProblem
    shape: tuple[int, ...]
    layout: str
    kernel_layout: str
    flip_kernel: bool
    dtypes: Dtypes
    algorithm: Algorithm
    demands: Demands

    def call(self, x: ArraySpec, w: ArraySpec, margins: Margins) -> Call:
        """The call of a block ``x`` that has ``margins`` of zeros."""
        extents = dict(zip(self.layout, x.shape, strict=True))
        size = tuple(extents[letter] for letter in layouts.spatial_letters(self.layout))
        problem = replace(self.problem, batch=extents.get("N", 1), size=size, padding=margins)
        return Call(x, w, self.layout, self.kernel_layout, self.flip_kernel, self.dtypes, problem)


class BlockConvolution:
    """One convolution as its tasks know it: the terms, the kernel, and what has been made of them in this process.

    It is sent to other processes as what it is made from, and there is one of it in each, so that a kernel is prepared
    and roads are laid once in a process.
    """

    def __init__(self, name: str, terms: Terms, w: Array, bias: Array | None) -> None:
        self.name, self.terms, self.w, self.bias = name, terms, w, bias
        self._lock = threading.Lock()
        self._prepared: dict[object, tuple[Any, Array | None]] = {}  # by the form in which roads want it
        self._roads: dict[Any, Road] = {}

    def __reduce__(self) -> Any:
        return _known, (self.name, self.terms, self.w, self.bias)

    def __dask_tokenize__(self) -> Any:
        return self.name

    def _call(self, shape: tuple[int, ...], dtype: Any, margins: Margins) -> Call:
        """The call that a block makes."""
        terms, w = self.terms, describe(self.w, "w")
        return terms.call(w._replace(shape=shape, dtype=dtype), w, margins)

    def _road(self, call: Call) -> Road:
        terms = self.terms
        target = Target.of(call.x, terms.demands.workers)
        way = quickest(terms.algorithm, call, terms.demands, target)
        return road(call, terms.algorithm, way.tile, way.workers, way.workspace)

    def __call__(self, x: Array, margins: Margins) -> Array:
        """Convolve a block, with zeros as wide as ``margins`` around it."""
        spec, terms = describe(x, "x"), self.terms
        alone = terms.demands.workers == 1 and spec.library.threads
        with blas_in_one_thread() if alone else nullcontext():
            with self._lock:
                key = (spec.shape, spec.dtype, margins)
                if key not in self._roads:
                    self._roads[key] = self._road(self._call(*key))
                one = self._roads[key]
                if one.form not in self._prepared:
                    largest = self._road(self._call(terms.shape, spec.dtype, terms.problem.padding))
                    prepares = largest if largest.form == one.form else one
                    self._prepared[one.form] = prepares.prepare(self.w, self.bias)
                    spec.library.wait(x)  # other threads may work in streams of their own
            return one(x, *self._prepared[one.form])


_convolutions: WeakValueDictionary[str, BlockConvolution] = WeakValueDictionary()
_lately: deque[BlockConvolution] = deque(maxlen=_REMEMBERED)


def _known(name: str, terms: Terms, w: Array, bias: Array | None) -> BlockConvolution:
    """The one convolution of this name in the process, for as long as it is in use, or small and among the last."""
    if (found := _convolutions.get(name)) is None:
        found = _convolutions.setdefault(name, BlockConvolution(name, terms, w, bias))
        if w.nbytes <= SMALL:
            _lately.append(found)
    return found


def _joined(counts: tuple[int, ...], parts: Sequence[Array]) -> Array:
    """Parts of an array, as many along each axis as ``counts`` says, the last axis fastest, as one array."""
    if len(parts) == 1:
        return parts[0]
    steps = [math.prod(counts[axis + 1 :]) for axis in range(len(counts))]
    bounds = [
        [*accumulate((parts[i * step].shape[axis] for i in range(count)), initial=0)]
        for axis, (count, step) in enumerate(zip(counts, steps, strict=True))
    ]
    spec = describe(parts[0], "x")
    whole = spec.xp.empty(tuple(ends[-1] for ends in bounds), dtype=spec.dtype, device=spec.device)
    for part, at in zip(parts, product(*map(range, counts)), strict=True):
        whole[tuple(slice(ends[i], ends[i + 1]) for ends, i in zip(bounds, at, strict=True))] = part
    return whole


def cut(block: Array, pieces: tuple[Piece, ...]) -> Array:
    """A part of a block that mirrors it, or says the same over and over, along some axis."""
    xp = describe(block, "x").xp
    for axis, piece in enumerate(pieces):
        before = (slice(None),) * axis
        if piece.step == 0:
            one = block[(*before, slice(piece.start, piece.start + 1))]
            block = xp.concat([one] * piece.length, axis=axis)
        else:
            block = block[(*before, forwards(piece))]
    return block


def forwards(piece: Piece) -> slice:
    """A piece as a slice, of step 1 or -1."""
    end = piece.start + piece.step * piece.length
    return slice(piece.start, None if end < 0 else end, None if piece.step == 1 else piece.step)


def gathered(name: str, terms: Terms, w: Parts, bias: Parts | None) -> BlockConvolution:
    """The convolution with a kernel and a bias whose parts are there now."""
    return _known(name, terms, _joined(*w), None if bias is None else _joined(*bias))


def convolved(
    convolve: BlockConvolution,
    block: tuple[int, ...],
    margins: Margins,
    counts: tuple[int, ...],
    *parts: Array,
) -> Array:
    """One block of the result, of the ``parts`` that it reads. What goes wrong says in which block."""
    try:
        return convolve(_joined(counts, parts), margins)
    except Exception as error:
        error.add_note(f"in block {block} of {convolve.name}, a convolution by polyconv")
        raise


def weight_gradient(
    terms: Terms,
    kernel_shape: tuple[int, ...],
    dtype: Any,
    dy: Array,
    margins: Margins,
    counts: tuple[int, ...],
    *parts: Array,
) -> Array:
    """What one block of ``dy`` adds to the gradient with respect to the kernel: ``(1, *kernel shape)``."""
    from .gradients import weight_grad  # which knows of chunks itself

    x = _joined(counts, parts)
    spec = describe(x, "x")
    call = terms.call(spec, spec._replace(shape=kernel_shape), margins)
    with blas_in_one_thread() if terms.demands.workers == 1 and spec.library.threads else nullcontext():
        return weight_grad(x, dy, call, terms.demands, dtype)[None]
