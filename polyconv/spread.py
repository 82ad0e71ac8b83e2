"""An axis of a transposed convolution, in integers: which phases there are, and what each of them reads."""

from __future__ import annotations

from dataclasses import dataclass

from .problem import clipped

__all__ = ["Axis"]


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
