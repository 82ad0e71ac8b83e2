"""An axis of a transposed convolution, in integers: which phases there are, and what each of them reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from .problem import clipped

__all__ = ["Axis", "Phase"]


class Phase(NamedTuple):
    """Outputs that are ``stride`` apart: the taps that they meet, where they stand, and the axis that they make."""

    taps: slice
    outputs: slice
    axis: Axis


@dataclass(frozen=True)
class Axis:
    """Pixels that are ``stride`` apart put ``taps`` that are ``dilation`` apart into the result.

    Of the places that they reach, ``outputs`` are wanted, after the first ``low``.
    """

    size: int
    taps: int
    stride: int
    dilation: int
    low: int
    outputs: int

    @property
    def spelled_out(self) -> bool:
        """Whether zeros stand between the taps, since with strides they would belong to phases that lie askew."""
        return self.stride > 1 and self.dilation > 1

    @property
    def each(self) -> int:
        """Taps of one phase, where it has one less than others a zero among them."""
        taps = (self.taps - 1) * self.dilation + 1 if self.spelled_out else self.taps
        return -(-taps // self.stride)

    @property
    def apart(self) -> int:
        """How far apart the pixels are that one output of a phase sees."""
        return 1 if self.stride > 1 else self.dilation

    @property
    def first(self) -> int:
        """The first place of a phase that is wanted of any."""
        return self.low // self.stride

    @property
    def places(self) -> int:
        """How many places of every phase are convolved."""
        return (self.low + self.outputs - 1) // self.stride - self.first + 1

    @property
    def reads(self) -> tuple[slice, tuple[int, int]]:
        """The pixels that these see, and how many zeros they see before and behind."""
        begin = self.first - (self.each - 1) * self.apart
        return clipped(begin, self.first + self.places, self.size)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of which any output is wanted: axes without a stride, and without taps where none is met."""
        common = math.gcd(self.stride, self.dilation)
        between, found = self.stride // common, []
        for begin in range(min(self.stride, self.outputs)):
            place, remainder = divmod(self.low + begin, self.stride)
            # Every so many taps one falls on a place of this remainder, or none does.
            tap = next((tap for tap in range(between) if tap * self.dilation % self.stride == remainder), self.taps)
            taps = slice(min(tap, self.taps), self.taps, between)
            low = place - tap * self.dilation // self.stride
            outputs = -(-(self.outputs - begin) // self.stride)
            axis = Axis(self.size, len(range(self.taps)[taps]), 1, self.dilation // common, low, outputs)
            found.append(Phase(taps, slice(begin, None, self.stride), axis))
        return tuple(found)
