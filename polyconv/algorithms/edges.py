"""Zeros around an image that are never stored: near an edge, outputs meet only those taps that fall on the image."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..problem import ConvProblem

__all__ = ["Run", "runs"]


class Run(NamedTuple):
    """Neighbouring outputs along an axis that see the same taps, where the others fall on zeros around the image."""

    first: int
    outputs: int
    tap: int
    taps: int
    start: int  # the pixel that the first output sees first


@lru_cache(maxsize=1024)
def _runs(outputs: int, taps: int, stride: int, dilation: int, low: int, size: int) -> tuple[Run, ...]:
    """An axis of ``outputs`` in runs, ``low`` zeros lying before the ``size`` pixels of the image."""
    found: list[Run] = []
    for o in range(outputs):
        begin = o * stride - low
        tap = min(max(0, -(begin // dilation)), taps)
        number = max(0, min(taps, (size - 1 - begin) // dilation + 1) - tap)
        if found and (found[-1].tap, found[-1].taps) == (tap, number):
            found[-1] = found[-1]._replace(outputs=found[-1].outputs + 1)
        else:
            found.append(Run(o, 1, tap, number, begin + tap * dilation))
    return tuple(found)


def runs(p: ConvProblem) -> tuple[tuple[Run, ...], ...]:
    """The runs of every spatial axis; one for each that has no margin."""
    lows = [low for low, _ in p.padding]
    return tuple(map(_runs, p.output_size, p.kernel, p.stride, p.dilation, lows, p.size))
