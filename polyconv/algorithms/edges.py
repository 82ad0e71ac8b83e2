"""Zeros around an image that are never stored: near an edge, outputs meet only those taps that fall on the image."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, product
from typing import NamedTuple

from ..problem import ConvProblem

__all__ = ["Part", "Run", "along", "apart", "columns", "few", "parts", "runs"]

_ZEROS, _PARTS = 16, 32  # zeros along an axis, and parts of the result, that are worth convolving for themselves


class Run(NamedTuple):
    """Neighbouring outputs along an axis that see the same taps, where the others fall on zeros around the image."""

    first: int
    outputs: int
    tap: int
    taps: int
    start: int  # the pixel that the first output sees first


@lru_cache(maxsize=1024)
def _runs(outputs: int, taps: int, stride: int, dilation: int, low: int, size: int) -> tuple[Run, ...]:
    """An axis of ``outputs`` in runs, ``low`` zeros lying before the ``size`` pixels of the image.

    In a few steps for each tap, however long the axis is: a run begins where a tap comes upon the image, or leaves it.
    """
    if outputs and low <= 0 and (outputs - 1) * stride + (taps - 1) * dilation - low < size:
        return (Run(0, outputs, 0, taps, -low),)
    changes = (-(-(edge - tap * dilation) // stride) for tap in range(taps) for edge in (low, low + size))
    begins = {o for o in (0, *changes) if 0 <= o < outputs}
    found: list[Run] = []
    for o, end in pairwise((*sorted(begins), outputs)):
        begin = o * stride - low
        tap = min(max(0, -(begin // dilation)), taps)
        number = max(0, min(taps, (size - 1 - begin) // dilation + 1) - tap)
        if found and (found[-1].tap, found[-1].taps) == (tap, number):
            found[-1] = found[-1]._replace(outputs=end - found[-1].first)
        else:
            found.append(Run(o, end - o, tap, number, begin + tap * dilation))
    return tuple(found)


def along(p: ConvProblem, axis: int) -> tuple[Run, ...]:
    """The runs of a spatial axis; one, if it has no margin."""
    low, _ = p.padding[axis]
    return _runs(p.output_size[axis], p.kernel[axis], p.stride[axis], p.dilation[axis], low, p.size[axis])


def runs(p: ConvProblem) -> tuple[tuple[Run, ...], ...]:
    """The runs of every spatial axis."""
    return tuple(along(p, axis) for axis in range(p.ndim))


def columns(p: ConvProblem) -> list[int]:
    """The columns, beside the image too, that the first output of a row sees by the taps of the last axis."""
    low, _ = p.padding[-1]
    return [tap * p.dilation[-1] - low for tap in range(p.kernel[-1])]


def apart(p: ConvProblem) -> int:
    """How many columns neighbouring outputs of a row are apart; one, where there is but one output."""
    return p.stride[-1] if p.output_size[-1] > 1 else 1


def few(p: ConvProblem) -> bool:
    """Whether there are so few parts of the result that each is worth convolving for itself."""
    return sum(map(sum, p.padding)) <= _ZEROS * p.ndim and math.prod(map(len, runs(p))) <= _PARTS


class Part(NamedTuple):
    """Outputs that see the same taps along every axis: what of image, kernel and result they are about.

    ``problem`` is the one that they pose, which has no margins; None where they see nothing but zeros.
    """

    image: tuple[slice, ...]
    kernel: tuple[slice, ...]
    result: tuple[slice, ...]
    problem: ConvProblem | None


@lru_cache(maxsize=64)
def parts(p: ConvProblem) -> tuple[Part, ...]:
    """All parts of the result of a problem with margins."""
    found = []
    for some in product(*runs(p)):
        lengths = tuple(
            (run.outputs - 1) * s + (run.taps - 1) * d + 1 for run, s, d in zip(some, p.stride, p.dilation, strict=True)
        )
        image = tuple(slice(run.start, run.start + length) for run, length in zip(some, lengths, strict=True))
        kernel = tuple(slice(run.tap, run.tap + run.taps) for run in some)
        result = tuple(slice(run.first, run.first + run.outputs) for run in some)
        taps = tuple(run.taps for run in some)
        problem = replace(p, size=lengths, kernel=taps, padding=((0, 0),) * p.ndim) if all(taps) else None
        found.append(Part(image, kernel, result, problem))
    return tuple(found)
