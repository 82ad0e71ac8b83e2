"""Transposed convolution: every pixel of the image puts a copy of the kernel, times its value, into the result.

Strides spread the copies apart. Outputs whose places leave the same remainder when divided by the stride meet the
same taps: they are a phase, and a phase is an ordinary convolution, without stride, of the image with some of the taps.
So all phases are filters of one convolution, whose results are interleaved (Shi et al., "Real-time single image and
video super-resolution using an efficient sub-pixel convolutional neural network", CVPR 2016): nothing is multiplied by
the zeros that the textbook puts between pixels, and any algorithm will do. Or each is convolved by itself, with its own
taps and no more, where that promises to be the quicker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from . import dtypes, wisdom
from .algorithms import Cost
from .arrays import Array, ArraySpec, contiguous, describe, device, in_chunks, written_in_place
from .convolution import Planner, per_block
from .layouts import channels_last, spatial_letters
from .padding import pad
from .planning import Plan
from .spread import Axis, Phase

__all__ = ["transpose"]


def _phases(w: Array, axes: Sequence[Axis]) -> Array:
    """The kernel ``(G, I, O, *kernel)`` as one of all phases, ``(G * phases * O, I, *each)``, turned around."""
    xp = describe(w, "w").xp
    n, kept = len(axes), w.shape[:3]
    for i, axis in enumerate(axes):
        if axis.spelled_out:
            before, after = w.shape[: 3 + i], w.shape[4 + i :]
            wide = xp.reshape(w, (*before, axis.taps, 1, *after))
            margins = [(0, 0)] * (4 + i) + [(0, axis.dilation - 1)] + [(0, 0)] * len(after)
            w = xp.reshape(pad(wide, margins, "constant", xp), (*before, axis.taps * axis.dilation, *after))
            w = w[(*(slice(None),) * (3 + i), slice((axis.taps - 1) * axis.dilation + 1), ...)]
    margins = [(0, axis.each * axis.stride - length) for axis, length in zip(axes, w.shape[3:], strict=True)]
    w = pad(w, [(0, 0)] * 3 + margins, "constant", xp)
    w = xp.reshape(w, (*kept, *(length for axis in axes for length in (axis.each, axis.stride))))
    w = xp.flip(w, axis=tuple(range(3, 3 + 2 * n, 2)))
    w = xp.permute_dims(w, (0, *range(4, 4 + 2 * n, 2), 2, 1, *range(3, 3 + 2 * n, 2)))
    filters = kept[0] * math.prod(axis.stride for axis in axes) * kept[2]
    return xp.reshape(w, (filters, kept[1], *(axis.each for axis in axes)))


def _interleaved(y: Array, layout: str, groups: int, strides: tuple[int, ...]) -> Array:
    """Phases, which stand among the channels, to their places between one another."""
    xp, letters = describe(y, "y").xp, spatial_letters(layout)
    # Each part of an axis: the letter of the axis in the result that it is part of, whether it is a phase, its length.
    parts: list[tuple[str, bool, int]] = []
    for letter, length in zip(layout, y.shape, strict=True):
        if letter == "C":
            phases = [(other, True, stride) for other, stride in zip(letters, strides, strict=True)]
            parts += [("C", False, groups), *phases, ("C", False, length // groups // math.prod(strides))]
        else:
            parts.append((letter, False, length))
    of = {letter: [i for i, part in enumerate(parts) if part[0] == letter] for letter in layout}
    order = [i for letter in layout for i in sorted(of[letter], key=lambda i: parts[i][1])]
    y = xp.permute_dims(xp.reshape(y, tuple(part[2] for part in parts)), tuple(order))
    return xp.reshape(y, tuple(math.prod(parts[i][2] for i in of[letter]) for letter in layout))


def _shape(x: Array, w: Array, axes: Sequence[Axis], layout: str) -> tuple[int, ...]:
    """The shape of the result."""
    extents = dict(zip(layout, x.shape, strict=True)) | {"C": w.shape[0] * w.shape[2]}
    extents |= {letter: axis.outputs for letter, axis in zip(spatial_letters(layout), axes, strict=True)}
    return tuple(extents[letter] for letter in layout)


def transpose(
    x: Array,
    w: Array,
    bias: Array | None,
    axes: tuple[Axis, ...],
    groups: int,
    layout: str,
    plan: Planner,
) -> Array:
    """The transposed convolution of ``x``, in a ``layout`` with batch and channels, with ``w`` ``(G, I, O, *kernel)``.

    ``plan(x, w, **keywords)`` plans the work, of ``x`` and a kernel whose output channels come first.
    """
    if not all(axis.outputs for axis in axes) and not in_chunks(x):  # of an image that is nothing but margins
        spec = describe(x, "x")
        dtype = dtypes.choose(x.dtype, w.dtype, plan.dtype, spec.xp, spec.device).result
        return spec.xp.zeros(_shape(x, w, axes, layout), dtype=dtype, device=spec.device)
    if math.prod(axis.stride for axis in axes) > 1 and not in_chunks(x) and not in_chunks(w) and written_in_place(x):
        parts = _apart(describe(x, "x"), describe(w, "w"), axes, groups, layout, plan)
        if parts is not None:
            return _phase_by_phase(x, w, bias, axes, layout, parts)
    return _at_once(x, w, bias, axes, groups, layout, plan)


class _Part(NamedTuple):
    """A phase of every axis, and the plan of it; None where no tap meets it."""

    phases: tuple[Phase, ...]
    plan: Plan | None


def _keywords(axes: Sequence[Axis], groups: int, layout: str) -> dict[str, Any]:
    return {
        "padding": tuple(axis.reads[1] for axis in axes),
        "dilation": tuple(axis.apart for axis in axes),
        "groups": groups,
        "layout": layout,
        "kernel_layout": "OI" + spatial_letters(layout),
    }


def _inside(axes: Sequence[Axis], layout: str) -> tuple[slice, ...]:
    """What of the image is read."""
    read = {letter: axis.reads[0] for letter, axis in zip(spatial_letters(layout), axes, strict=True)}
    return tuple(read.get(letter, slice(None)) for letter in layout)


@wisdom.heeding
def _apart(
    x: ArraySpec, w: ArraySpec, axes: tuple[Axis, ...], groups: int, layout: str, plan: Planner
) -> tuple[_Part, ...] | None:
    """The phases one by one, if that promises to be quicker than all of them at once."""

    def planned(axes: Sequence[Axis]) -> Any:
        read = zip(x.shape, _inside(axes, layout), strict=True)
        image = x._replace(shape=tuple(len(range(n)[inside]) for n, inside in read))
        filters = groups * math.prod(axis.stride for axis in axes) * w.shape[2]
        kernel = w._replace(shape=(filters, w.shape[1], *(axis.each for axis in axes)))
        return plan(image, kernel, described=True, **_keywords(axes, groups, layout))

    parts = []
    for phases in product(*(axis.phases for axis in axes)):
        own = [phase.axis for phase in phases]
        try:
            parts.append(_Part(phases, planned(own) if all(axis.taps for axis in own) else None))
        except ValueError:  # the algorithm that was asked for takes no such phase, and may take all of them
            return None
    alone = [part.plan for part in parts if part.plan is not None]
    return tuple(parts) if alone and _quicker(alone, planned(axes), layout) else None


def _quicker(alone: Sequence[Plan], together: Plan, layout: str) -> bool:
    """Whether phases are convolved and put in their places in less time alone than ``together``."""
    p = together.call.problem
    of_each = alone[0].call.problem.filters
    # What lies together of a phase: the channels of a group or, where it is alone, of all groups.
    lengths = (of_each * p.groups, of_each) if channels_last(layout) else (1, 1)
    copies = (
        Cost(traffic=2 * p.output_elements * p.itemsize, runs=p.output_elements // length, calls=0, workspace=0)
        for length in lengths
    )
    apart, at_once = (together.target.seconds(cost, p.dtype, alone=True) for cost in copies)
    return sum(plan.chosen.seconds for plan in alone) + apart < together.chosen.seconds + at_once


def _phase_by_phase(
    x: Array, w: Array, bias: Array | None, axes: Sequence[Axis], layout: str, parts: Sequence[_Part]
) -> Array:
    """Every phase convolved with its own taps, and put in its place."""
    xp, letters = describe(x, "x").xp, spatial_letters(layout)
    result = next(part.plan.call.dtypes.result for part in parts if part.plan is not None)
    y = xp.empty(_shape(x, w, axes, layout), dtype=result, device=device(x))
    for phases, plan in parts:
        alone = [phase.axis for phase in phases]
        places = {letter: phase.outputs for letter, phase in zip(letters, phases, strict=True)}
        target = tuple(places.get(letter, slice(None)) for letter in layout)
        if plan is not None:
            some = w[(slice(None), slice(None), slice(None), *(phase.taps for phase in phases))]
            y[target] = plan.run(x[_inside(alone, layout)], _phases(some, alone), bias)
        elif bias is None:
            y[target] = 0
        else:
            y[target] = xp.reshape(bias, tuple(-1 if letter == "C" else 1 for letter in layout))
    return y


def _at_once(
    x: Array, w: Array, bias: Array | None, axes: Sequence[Axis], groups: int, layout: str, plan: Planner
) -> Array:
    """All phases as filters of one convolution, whose results are interleaved."""
    letters = spatial_letters(layout)
    strides = tuple(axis.stride for axis in axes)
    every = math.prod(strides)
    if every > 1 and bias is not None:
        bias = per_block(bias, partial(_for_each_phase, groups=groups, every=every))
    image, kernel = x[_inside(axes, layout)], per_block(w, partial(_phases, axes=tuple(axes)))
    y = plan(image, kernel, **_keywords(axes, groups, layout)).run(image, kernel, bias)
    if every == 1:
        return y
    y = per_block(y, partial(_interleaved, layout=layout, groups=groups, strides=strides), along=(layout.index("C"),))
    skipped = {letter: axis.low - axis.first * axis.stride for letter, axis in zip(letters, axes, strict=True)}
    wanted = {
        letter: slice(skipped[letter], skipped[letter] + axis.outputs)
        for letter, axis in zip(letters, axes, strict=True)
    }
    y = y[tuple(wanted.get(letter, slice(None)) for letter in layout)]
    return y if in_chunks(y) else contiguous(y)


def _for_each_phase(bias: Array, groups: int, every: int) -> Array:
    """A bias, ``(G * O,)``, for the filters of all phases, ``(G * phases * O,)``."""
    xp = describe(bias, "bias").xp
    return xp.reshape(xp.concat([xp.reshape(bias, (groups, 1, -1))] * every, axis=1), (-1,))
