"""Dask arrays, block by block: the only module that knows Dask.

One plan, that of the largest block, serves the whole call, so that no seam between blocks has another rounding. Every
block of the result is one task (:mod:`polyconv.blocks`). What it reads of other blocks is cut off by tasks of its own,
so that a halo and not a neighbour is sent from one machine to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple

import dask.array as da
from dask._task_spec import DataNode, List, Task, TaskRef, Tuple
from dask.array.chunk import getitem
from dask.base import normalize_token, tokenize
from dask.highlevelgraph import HighLevelGraph

from . import layouts
from .arguments import Call, Demands, check_array, check_bias
from .arrays import Array, ArraySpec, describe, in_chunks
from .blocks import SMALL, Margins, Parts, Terms, convolved, cut, forwards, gathered, weight_gradient
from .halo import Interval, Piece, between, each, split
from .planning import Plan, make_plan

__all__ = ["ChunkedPlan", "PreparedInChunks", "like", "mapped", "plan", "weight_grad"]

# -- the graph -----------------------------------------------------------------------------------------------


class _Operand:
    """A Dask array, to be cut: its parts are references to its blocks, or to tasks in ``layer`` that cut these."""

    def __init__(self, name: str, source: str, chunks: Sequence[Sequence[int]], layer: dict[Any, Any]) -> None:
        self._name, self._source, self._chunks, self._layer = name, source, chunks, layer

    def parts(self, intervals: Sequence[Interval]) -> tuple[tuple[int, ...], list[TaskRef]]:
        """The parts that lie in some intervals, one along each axis."""
        counts = tuple(len(interval.pieces) for interval in intervals)
        return counts, [self._part(pieces) for pieces in product(*(interval.pieces for interval in intervals))]

    def _part(self, pieces: tuple[Piece, ...]) -> TaskRef:
        place = (self._source, *(piece.block for piece in pieces))
        if all(
            piece.length == lengths[piece.block] and piece.start == 0 and piece.step == 1
            for piece, lengths in zip(pieces, self._chunks, strict=True)
        ):
            return TaskRef(place)
        key = (self._name, *(number for piece in pieces for number in piece))
        if key not in self._layer:
            straight = all(piece.step == 1 for piece in pieces)
            how: tuple[Any, Any] = (getitem, tuple(map(forwards, pieces))) if straight else (cut, pieces)
            self._layer[key] = Task(key, how[0], TaskRef(place), how[1])
        return TaskRef(key)


class _Filters(NamedTuple):
    """Some filters, from ``first`` to ``last - 1``: the channels that they see, and the terms of their convolution."""

    first: int
    last: int
    channels: Interval
    terms: Terms


@dataclass(frozen=True, eq=False)
class ChunkedPlan:
    """A convolution of a Dask array made ready: how it is cut, and the plan of its largest block.

    ``plan(x, w, bias)`` convolves arrays of the shapes, dtypes and chunks that it was made for, lazily; ``print(plan)``
    shows every algorithm with its predicted cost for one block.

    Attributes
    ----------
    call
        The arguments, canonical, and the :class:`~polyconv.problem.ConvProblem` of the whole.
    demands
        What is asked of the choice among algorithms.
    chunks
        The chunks of ``x``.
    filter_chunks
        Those of ``w`` along its output channels.
    """

    call: Call
    demands: Demands
    chunks: tuple[tuple[int, ...], ...]
    filter_chunks: tuple[int, ...]

    @property
    def algorithm(self) -> str:
        """The name of the algorithm that will run."""
        return self.block.algorithm

    @cached_property
    def _axes(self) -> dict[str, tuple[Interval, ...]]:
        """The result's intervals along batch and space, by the letters of the layout."""
        layout = self.call.layout
        blocks = dict(zip(layout, self.chunks, strict=True))
        spatial = enumerate(layouts.spatial_letters(layout))
        found = {letter: split(self.call.problem, axis, blocks[letter]) for axis, letter in spatial}
        return found | ({"N": each(blocks["N"])} if "N" in layout else {})

    @cached_property
    def block(self) -> Plan:
        """The plan of the largest block: the longest part along every axis, of all channels and filters."""
        call = self.call
        most = {letter: max(some, key=lambda one: one.length) for letter, some in self._axes.items()}
        extents = dict(zip(call.layout, call.x.shape, strict=True))
        extents.update((letter, one.length) for letter, one in most.items())
        spatial = layouts.spatial_letters(call.layout)
        problem = replace(
            call.problem,
            batch=extents.get("N", 1),
            size=tuple(extents[letter] for letter in spatial),
            padding=tuple(most[letter].margin for letter in spatial),
            padding_mode="constant",
        )
        here = replace(call, x=call.x._replace(shape=tuple(extents[letter] for letter in call.layout)), problem=problem)
        return make_plan(here, self.demands)

    @cached_property
    def filters(self) -> tuple[_Filters, ...]:
        """The filters in the kernel's own chunks; where there are groups, as many as a chunk holds whole."""
        call, p, block = self.call, self.call.problem, self.block.call
        terms = Terms(
            block.problem, block.x.shape, call.layout, call.kernel_layout, call.flip_kernel, call.dtypes,
            self.block.chosen.algorithm, self.demands,
        )  # fmt: skip
        total, grouped = p.groups * p.filters, p.groups > 1
        grain = max(p.filters, 1) if grouped else 1
        cuts = sorted({0, *(end // grain * grain for end in accumulate(self.filter_chunks)), total})
        found = []
        for first, last in pairwise(cuts) if total else ((0, 0),):
            if "C" not in call.layout:
                return (_Filters(first, last, Interval(0, 1, (), (0, 0)), terms),)
            axis = call.layout.index("C")
            groups = (last - first) // grain if grouped and total else p.groups
            start = first // grain * p.channels if grouped else 0
            shape = (*terms.shape[:axis], groups * p.channels, *terms.shape[axis + 1 :])
            problem = replace(block.problem, groups=groups, filters=(last - first) // groups)
            channels = between(self.chunks[axis], start, start + groups * p.channels)
            found.append(_Filters(first, last, channels, terms._replace(problem=problem, shape=shape)))
        return tuple(found)

    @property
    def result_chunks(self) -> tuple[tuple[int, ...], ...]:
        """The chunks of the result: those of the image, as its windows lie, and those of the filters."""
        intervals: dict[str, tuple[Any, ...]] = {**self._axes, "C": self.filters}
        return tuple(tuple(one.last - one.first for one in intervals[letter]) for letter in self.call.layout)

    def layer(self, name: str, w: Any, bias: Any, sources: Mapping[str, str]) -> dict[Any, Any]:
        """All tasks: one for every block of the result, and those that cut off what it reads of other blocks.

        ``sources`` are the names of the arrays that are Dask's, by those of the arguments.
        """
        layer = dict[Any, Any]()
        kernels = [self._kernel(f"{name}-{i}", some, w, bias, sources, layer) for i, some in enumerate(self.filters)]
        image = _Operand(f"{name}-x", sources["x"], self.chunks, layer)
        channel = self.call.layout.find("C")
        for at, chosen, margins in self.blocks():
            counts, parts = image.parts(chosen)
            kernel = kernels[at[channel] if channel >= 0 else 0]
            layer[(name, *at)] = Task((name, *at), convolved, kernel, at, margins, counts, *parts)
        return layer

    def blocks(self) -> Iterator[tuple[tuple[int, ...], list[Interval], Margins]]:
        """For every block of the result, which it is, what it reads along every axis of the image, and its margins."""
        layout = self.call.layout
        spatial = [layout.index(letter) for letter in layouts.spatial_letters(layout)]
        choices: list[Sequence[Any]] = [self.filters if letter == "C" else self._axes[letter] for letter in layout]
        channel = layout.find("C")
        for at in product(*(range(len(choice)) for choice in choices)):
            chosen = [choice[i] for choice, i in zip(choices, at, strict=True)]
            margins = tuple(chosen[axis].margin for axis in spatial)
            if channel >= 0:
                chosen[channel] = chosen[channel].channels
            yield at, chosen, margins

    def _kernel(
        self, name: str, some: _Filters, w: Any, bias: Any, sources: Mapping[str, str], layer: dict[Any, Any]
    ) -> Any:
        """The convolution with some filters, or where in the graph it is to be found."""

        def parts(key: str, array: Any, axes: str) -> Parts | None:
            if array is None:
                return None
            if not in_chunks(array):
                index = tuple(slice(some.first, some.last) if letter == "O" else slice(None) for letter in axes)
                return (1,) * len(axes), [array[index]] if axes else [array]
            intervals = [
                between(lengths, some.first, some.last) if letter == "O" else between(lengths, 0, sum(lengths))
                for letter, lengths in zip(axes, array.chunks, strict=True)
            ]
            counts, found = _Operand(f"{name}-{key}", sources[key], array.chunks, layer).parts(intervals)
            return counts, List(*found)

        w_parts, bias_parts = (
            parts("w", w, self.call.kernel_layout),
            parts("bias", bias, "O" * len(self.call.bias_shape)),
        )
        assert w_parts is not None
        key = f"{name}-kernel"
        if in_chunks(w) or in_chunks(bias):
            packed = [None if some is None else Tuple(*some) for some in (w_parts, bias_parts)]
            layer[key] = Task(key, gathered, name, some.terms, *packed)
            return TaskRef(key)
        convolution = gathered(name, some.terms, w_parts, bias_parts)
        if w_parts[1][0].nbytes <= SMALL:
            return convolution
        layer[key] = DataNode(key, convolution)
        return TaskRef(key)

    def __call__(self, x: Any, w: Any, bias: Any = None) -> Any:
        """Convolve ``x`` with ``w``, lazily. Raises ValueError or TypeError for arrays that the plan is not for."""
        if not in_chunks(x):
            raise TypeError("x is no Dask array, and the plan is for one; plan.block is for a block in memory")
        check_array(x, "x", self.call.x, chunked=True)
        check_array(w, "w", self.call.w, chunked=True)
        if (x.chunks, _filter_chunks(self.call, w)) != (self.chunks, self.filter_chunks):
            raise ValueError("x or w has other chunks than the plan is for; make another plan")
        return self.run(x, w, bias)

    def run(self, x: Any, w: Any, bias: Any) -> Any:
        """Convolve arrays that are known to fit, as those do from which the plan was just made."""
        if bias is not None:
            check_bias(bias, self.call, chunked=True)
        arrays = {"x": x, "w": _kept(w), "bias": _kept(bias)}
        recipe = _Recipe(self, arrays["w"], arrays["bias"])
        return _collection(recipe, {key: a for key, a in arrays.items() if in_chunks(a)})

    def prepare(self, w: Any, bias: Any = None) -> PreparedInChunks:
        """``plan.prepare(w, bias)(x)`` is ``plan(x, w, bias)``: a kernel is prepared once in a process anyway.

        Raises ValueError or TypeError for arrays that the plan is not for.
        """
        check_array(w, "w", self.call.w, chunked=True)
        if bias is not None:
            check_bias(bias, self.call, chunked=True)
        return PreparedInChunks(self, _kept(w), _kept(bias))

    def __repr__(self) -> str:
        return f"<polyconv.ChunkedPlan {self.algorithm}: {self.call}>"

    def __str__(self) -> str:
        blocks = math.prod(map(len, self.result_chunks))
        return f"{self.call}\nin {blocks} blocks, of which the largest is\n\n{self.block}"


@dataclass(frozen=True, eq=False)
class PreparedInChunks:
    """A plan with its kernel and bias; ``prepared(x)`` convolves Dask arrays. Made by :meth:`ChunkedPlan.prepare`."""

    plan: ChunkedPlan
    w: Any
    bias: Any

    def __call__(self, x: Any) -> Any:
        """Convolve ``x``, lazily."""
        return self.plan(x, self.w, self.bias)


def _kept(a: Any) -> Any:
    """A copy of an array in memory: its caller may write into it before what is lazy has been computed."""
    return a if a is None or in_chunks(a) else describe(a, "array").xp.asarray(a, copy=True)


def _filter_chunks(call: Call, w: Any) -> tuple[int, ...]:
    if in_chunks(w) and "O" in call.kernel_layout:
        return tuple(w.chunks[call.kernel_layout.index("O")])
    return (call.problem.groups * call.problem.filters,)


def plan(call: Call, demands: Demands, x: Any, w: Any) -> ChunkedPlan:
    """The plan of a call whose image is a Dask array; each task works on one thread unless more are asked for."""
    if not in_chunks(x):
        raise TypeError("w is a Dask array and x is not; make x one, say by dask.array.from_array(x), or compute w")
    made = ChunkedPlan(call, replace(demands, workers=demands.workers or 1), x.chunks, _filter_chunks(call, w))
    made.block  # noqa: B018 - what no algorithm can run is refused now
    return made


def _empty(spec: ArraySpec, ndim: int, dtype: Any) -> Array:
    return spec.xp.empty((0,) * ndim, dtype=dtype, device=spec.device)


def mapped(a: Any, function: Callable[[Any], Array], along: tuple[int, ...] | None) -> Any:
    """A function of every block, in which shapes decide shapes; ``along`` some axes, or all, there is one block.

    The length of its result along any other axis is decided by the block's along that axis.
    """
    whole = tuple(range(a.ndim)) if along is None else along
    a = a.rechunk(dict.fromkeys(whole, -1))
    spec = describe(a._meta, "meta")

    def shape(axis: int = -1, length: int = 1) -> tuple[int, ...]:
        """That of the result of a block so long along one axis, tried out on a thin one."""
        lengths = (n if i in whole else length if i == axis else 1 for i, n in enumerate(a.shape))
        return tuple(function(spec.xp.zeros(tuple(lengths), dtype=spec.dtype, device=spec.device)).shape)

    if len(thin := shape()) == a.ndim:
        made = [{n: shape(axis, n)[axis] for n in {*lengths}} for axis, lengths in enumerate(a.chunks)]
        chunks = tuple(tuple(map(found.__getitem__, lengths)) for found, lengths in zip(made, a.chunks, strict=True))
        return a.map_blocks(function, chunks=chunks, dtype=a.dtype, meta=a._meta)
    return a.map_blocks(
        function, chunks=tuple((n,) for n in thin), dtype=a.dtype, meta=_empty(spec, len(thin), spec.dtype),
        drop_axis=[*range(a.ndim)], new_axis=[*range(len(thin))],
    )  # fmt: skip


# -- collections ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Recipe:
    """What one layer is made from, beside the names of the arrays it reads: those of a convolution."""

    plan: ChunkedPlan
    w: Any
    bias: Any
    kind = "conv"

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """The chunks of the result."""
        return self.plan.result_chunks

    @property
    def meta(self) -> Array:
        """An empty array like the blocks of the result."""
        return _empty(self.plan.call.x, len(self.chunks), self.plan.call.dtypes.result)

    def __dask_tokenize__(self) -> Any:
        plan, call = self.plan, self.plan.call
        algorithm = plan.filters[0].terms.algorithm
        return normalize_token(
            [
                *(None if in_chunks(a) else a for a in (self.w, self.bias)),
                *(call.problem, call.layout, call.kernel_layout, call.flip_kernel, str(call.dtypes.result)),
                *(plan.chunks, plan.filter_chunks, plan.demands.max_workspace, plan.demands.workers),
                *(algorithm.name, algorithm.detail, algorithm.run),
            ]
        )

    def name(self, sources: Mapping[str, str]) -> str:
        """The layer's name: another one for other arrays, and the same for the same."""
        return f"{self.kind}-{tokenize(self, sorted(sources.items()))}"

    def layer(self, sources: Mapping[str, str]) -> dict[Any, Any]:
        """The layer, where the arrays that are Dask's have these names."""
        return self.plan.layer(self.name(sources), self.w, self.bias, sources)


@dataclass(frozen=True, eq=False)
class _PartialGradients(_Recipe):
    """The same of the kernel's gradient: that of every block, one behind the other along a first axis."""

    dtype: Any
    kind = "conv-weight-grad"

    def __dask_tokenize__(self) -> Any:
        return normalize_token([_Recipe.__dask_tokenize__(self), str(self.dtype)])

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """One for each block of the result, of the kernel's shape."""
        blocks = math.prod(map(len, self.plan.result_chunks))
        return ((1,) * blocks, *((length,) for length in self.plan.call.w.shape))

    @property
    def meta(self) -> Array:
        """An empty array like the gradients."""
        return _empty(self.plan.call.x, len(self.chunks), self.dtype)

    def layer(self, sources: Mapping[str, str]) -> dict[Any, Any]:
        """A task for every block, of what it reads of the image and of the gradient of the result."""
        plan, name, layer = self.plan, self.name(sources), dict[Any, Any]()
        terms = plan.filters[0].terms
        image = _Operand(f"{name}-x", sources["x"], plan.chunks, layer)
        rest = (0,) * len(plan.call.w.shape)
        for number, (at, chosen, margins) in enumerate(plan.blocks()):
            counts, parts = image.parts(chosen)
            key = (name, number, *rest)
            dy = TaskRef((sources["dy"], *at))
            layer[key] = Task(key, weight_gradient, terms, plan.call.w.shape, self.dtype, dy, margins, counts, *parts)
        return layer


def weight_grad(x: Any, dy: Any, call: Call, demands: Demands, dtype: Any) -> Any:
    """The gradient with respect to the kernel: those of all blocks, summed as a tree."""
    made = ChunkedPlan(call, replace(demands, workers=demands.workers or 1), x.chunks, _filter_chunks(call, None))
    recipe = _PartialGradients(made, None, None, dtype)
    partial = _collection(recipe, {"x": x, "dy": dy.rechunk(made.result_chunks)})
    return partial.sum(axis=0, dtype=recipe.meta.dtype)


def like(a: Any, x: Any) -> Any:
    """``a`` as a Dask array, if ``x`` is one and it is not."""
    return da.from_array(a) if in_chunks(x) and not in_chunks(a) else a


def _collection(recipe: _Recipe, arrays: Mapping[str, Any]) -> Any:
    """A Dask array of one layer: a graph or, where Dask plans queries, an expression."""
    if da.array_expr_enabled():
        expressions = (array.expr for array in arrays.values())
        return new_collection(Convolution(recipe, recipe.chunks, recipe.meta, [*arrays], *expressions))
    sources = {key: array.name for key, array in arrays.items()}
    name = recipe.name(sources)
    graph = HighLevelGraph.from_collections(name, recipe.layer(sources), dependencies=[*arrays.values()])
    return da.Array(graph, name, recipe.chunks, meta=recipe.meta)


if da.array_expr_enabled():
    from dask._collections import new_collection
    from dask.array._array_expr._expr import ArrayExpr

    class Convolution(ArrayExpr):
        """A convolution; its operands after the parameters are the arrays that it reads, named by ``arguments``."""

        _parameters = ["recipe", "chunks", "meta", "arguments"]  # noqa: RUF012

        @cached_property
        def _sources(self) -> dict[str, str]:
            arrays = self.operands[len(self._parameters) :]
            return {key: array._name for key, array in zip(self.operand("arguments"), arrays, strict=True)}

        @cached_property
        def _meta(self) -> Any:
            return self.operand("meta")

        @cached_property
        def _name(self) -> str:
            return str(self.operand("recipe").name(self._sources))

        def _layer(self) -> Any:
            return self.operand("recipe").layer(self._sources)
