"""Any stride and dilation as a convolution with neither: the polyphase decomposition.

An output ``o`` and a tap ``t`` meet in the pixel ``o * stride + t * dilation``. Both are split by remainders, along
each axis for itself (Vaidyanathan, "Multirate systems and filter banks" (1993), chapter 4). Let ``step`` be the
greatest common divisor of both numbers, ``s = stride / step`` and ``d = dilation / step``:

- outputs ``o = p + d * q`` of equal remainder ``p`` see pixels a whole dilation apart, and become a batch of their own;
- taps ``t = v + s * u`` of equal remainder ``v`` meet neighbouring outputs in neighbouring pixels, and become
  channels of their own, whose convolutions are summed.

What is left is a convolution of the phases ``x[step * (s * p + d * v) + step * s * d * j]``, over ``j``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array
from ..padding import pad
from ..problem import ConvProblem

__all__ = ["Held", "image_held", "join", "kernel_held", "split_image", "split_kernel", "straight", "unit"]


class _Axis(NamedTuple):
    """The phases of one axis: how many batches and channels it makes, and the lengths that remain."""

    step: int
    s: int
    d: int
    channels: int
    taps: int
    outputs: int

    @property
    def length(self) -> int:
        """Pixels of one phase."""
        return self.outputs + self.taps - 1

    @property
    def stride(self) -> int:
        """From one pixel of a phase to the next."""
        return self.step * self.s * self.d

    def start(self, p: int, v: int) -> int:
        """The first pixel of a phase."""
        return self.step * (self.s * p + self.d * v)


@lru_cache
def _axes(p: ConvProblem) -> tuple[_Axis, ...]:
    axes = []
    for kernel, stride, dilation, outputs in zip(p.kernel, p.stride, p.dilation, p.output_size, strict=True):
        step = math.gcd(stride, dilation)
        s, d = stride // step, dilation // step
        axes.append(_Axis(step, s, d, min(s, kernel), -(-kernel // s), -(-outputs // d)))
    return tuple(axes)


def straight(p: ConvProblem) -> bool:
    """Whether the problem has neither stride nor dilation, so that it is its own only phase."""
    return all(step == 1 for step in (*p.stride, *p.dilation))


@lru_cache
def unit(p: ConvProblem) -> ConvProblem:
    """The convolution of all phases at once: no stride, no dilation, more images, more channels, fewer taps."""
    axes = _axes(p)
    return replace(
        p,
        batch=p.batch * math.prod(axis.d for axis in axes),
        channels=p.channels * math.prod(axis.channels for axis in axes),
        size=tuple(axis.length for axis in axes),
        kernel=tuple(axis.taps for axis in axes),
        stride=(1,) * p.ndim,
        dilation=(1,) * p.ndim,
    )


def _pixels(p: ConvProblem) -> tuple[int, ...]:
    """How far into the image the last phase reaches along each axis."""
    return tuple(axis.start(axis.d - 1, axis.channels - 1) + (axis.length - 1) * axis.stride + 1 for axis in _axes(p))


def split_image(x: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """The phases of an image: ``(N, G, C, *size)`` to the shape of the image of :func:`unit`."""
    if straight(p):
        return x
    axes = _axes(p)
    strides = [axis.stride for axis in axes]
    margins = [(0, max(most - size, 0)) for most, size in zip(_pixels(p), p.size, strict=True)]
    x = pad(x, [(0, 0)] * 3 + margins, "constant", xp)
    phases = []
    for batches in product(*(range(axis.d) for axis in axes)):
        channels = []
        for remainders in product(*(range(axis.channels) for axis in axes)):
            starts = (axis.start(b, v) for axis, b, v in zip(axes, batches, remainders, strict=True))
            lines = (
                slice(start, start + (axis.length - 1) * stride + 1, stride)
                for axis, start, stride in zip(axes, starts, strides, strict=True)
            )
            channels.append(x[(slice(None), slice(None), slice(None), *lines)])
        phases.append(xp.concat(channels, axis=2) if len(channels) > 1 else channels[0])
    return xp.concat(phases, axis=0) if len(phases) > 1 else phases[0]


def split_kernel(w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """The taps of every phase of channels: ``(G, K, C, *kernel)`` to the shape of the kernel of :func:`unit`.

    Where a phase has a tap less than the others, it is a zero.
    """
    if straight(p):
        return w
    axes = _axes(p)
    margins = [(0, axis.taps * axis.s - kernel) for axis, kernel in zip(axes, p.kernel, strict=True)]
    w = pad(w, [(0, 0)] * 3 + margins, "constant", xp)
    channels = [
        w[(slice(None), slice(None), slice(None), *(slice(v, None, axis.s) for axis, v in zip(axes, vs, strict=True)))]
        for vs in product(*(range(axis.channels) for axis in axes))
    ]
    return xp.concat(channels, axis=2) if len(channels) > 1 else channels[0]


class Held(NamedTuple):
    """Elements of memory that splitting holds at once, beside what it is given, and those that it leaves."""

    most: int
    left: int


def image_held(p: ConvProblem) -> Held:
    """What :func:`split_image` holds."""
    if straight(p):
        return Held(0, 0)
    axes = _axes(p)
    padded = tuple(map(max, p.size, _pixels(p)))
    margin = 0 if padded == p.size else replace(p, size=padded).image_elements
    copies = (math.prod(axis.channels for axis in axes) > 1) + (math.prod(axis.d for axis in axes) > 1)
    every = unit(p).image_elements
    return Held(margin + copies * every, every if copies else margin)


def kernel_held(p: ConvProblem) -> Held:
    """What :func:`split_kernel` holds."""
    if straight(p):
        return Held(0, 0)
    axes = _axes(p)
    padded = tuple(axis.taps * axis.s for axis in axes)
    margin = 0 if padded == p.kernel else replace(p, kernel=padded).kernel_elements
    every = unit(p).kernel_elements if math.prod(axis.channels for axis in axes) > 1 else 0
    return Held(margin + every, every or margin)


def join(y: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """The result of :func:`unit` put together: ``(phases * N, G, K, *outputs)`` to ``(N, G, K, *output_size)``."""
    if straight(p):
        return y
    axes, n = _axes(p), p.ndim
    batches, outputs = [axis.d for axis in axes], [axis.outputs for axis in axes]
    y = xp.reshape(y, (*batches, p.batch, p.groups, p.filters, *outputs))
    order = [*range(n, n + 3)] + [i for axis in range(n) for i in (n + 3 + axis, axis)]
    lengths = [axis.d * axis.outputs for axis in axes]
    y = xp.reshape(xp.permute_dims(y, tuple(order)), (p.batch, p.groups, p.filters, *lengths))
    return y[(slice(None), slice(None), slice(None), *(slice(length) for length in p.output_size))]
