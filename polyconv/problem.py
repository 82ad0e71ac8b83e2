"""A convolution as a small frozen description: integers, names and nothing else.

Everything that decides *how* to convolve (planning, tiling, chunking, gradients) works on a
:class:`ConvProblem` and never looks at data, so its results can be cached, printed and compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

__all__ = ["ConvProblem", "clipped", "output_extent", "reach"]


def reach(kernel: int, dilation: int) -> int:
    """How many neighbouring inputs one window spans along an axis: ``(kernel - 1) * dilation + 1``."""
    return (kernel - 1) * dilation + 1


def output_extent(padded: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows fit along an axis of ``padded`` inputs; zero where not even one does."""
    return max(0, (padded - reach(kernel, dilation)) // stride + 1)


def clipped(start: int, stop: int, size: int) -> tuple[slice, tuple[int, int]]:
    """What of ``start`` to ``stop - 1`` lies on an axis of ``size`` elements, and how much before and behind it.

    Where nothing does, all of it counts as before.
    """
    begin, end = min(max(start, 0), size), min(max(stop, 0), size)
    if begin == end:
        return slice(begin, end), (stop - start, 0)
    return slice(begin, end), (begin - start, stop - end)


@dataclass(frozen=True, eq=False)
class ConvProblem:
    """What is convolved, in the one axis order that every algorithm sees.

    The image is ``(batch, groups, channels, *size)``, the kernel ``(groups, filters, channels, *kernel)``
    and the result ``(batch, groups, filters, *output_size)``: channels and filters are counted *per group*,
    which makes grouping an ordinary batch axis and a depthwise layer the case ``channels == 1``.

    The result is a cross-correlation along the spatial axes::

        y[n, g, k, o] = sum over c, t of  x[n, g, c, o * stride + t * dilation - low pad] * w[g, k, c, t]

    ``dtype`` names the dtype in which products are summed. ``channels_last`` says how the caller's image
    lies in memory (channels innermost, or space innermost); the axis order above is the same for both.
    ``largest_product`` is what the product of a pixel and a tap may come to in magnitude where both are integers, by
    their dtypes, and zero where one is not.
    """

    batch: int
    groups: int
    channels: int
    filters: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str = "constant"
    dtype: str = "float32"
    channels_last: bool = False
    largest_product: int = 0

    @cached_property
    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def _hash(self) -> int:
        return hash(self._fields)

    def __hash__(self) -> int:
        """Worked out once: a problem is looked up in several tables for every call, and for every tile."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal, which are gathered once."""
        return self._fields == other._fields if isinstance(other, ConvProblem) else NotImplemented

    def __reduce__(self) -> tuple[type[ConvProblem], tuple[object, ...]]:
        """Without what has been worked out, since a hash is another in another process."""
        return ConvProblem, self._fields

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    @cached_property
    def padded_size(self) -> tuple[int, ...]:
        """The spatial size once padding has been added."""
        return tuple(n + low + high for n, (low, high) in zip(self.size, self.padding, strict=True))

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """The spatial size of the result."""
        return tuple(map(output_extent, self.padded_size, self.kernel, self.stride, self.dilation))

    @cached_property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result: ``(batch, groups, filters, *output_size)``."""
        return (self.batch, self.groups, self.filters, *self.output_size)

    @cached_property
    def memory_order(self) -> tuple[int, ...]:
        """The axes of image and result from the outermost in memory to the innermost."""
        space = range(3, 3 + self.ndim)
        return (0, *space, 1, 2) if self.channels_last else (0, 1, 2, *space)

    @cached_property
    def positions(self) -> int:
        """Output positions of one image: the product of the output size."""
        return math.prod(self.output_size)

    @cached_property
    def taps(self) -> int:
        """Kernel taps: the product of the kernel size."""
        return math.prod(self.kernel)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate operations of the definition; zero where a dimension is empty."""
        return self.output_elements * self.channels * self.taps

    @cached_property
    def image_elements(self) -> int:
        """Elements of the padded image."""
        return self.batch * self.groups * self.channels * math.prod(self.padded_size)

    @cached_property
    def kernel_elements(self) -> int:
        """Elements of the kernel."""
        return self.groups * self.filters * self.channels * self.taps

    @cached_property
    def output_elements(self) -> int:
        """Elements of the result."""
        return self.batch * self.groups * self.filters * self.positions

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one element of ``dtype``, read off its name (``"complex64"`` has 64 bits)."""
        return int("".join(filter(str.isdigit, self.dtype))) // 8

    def window(self, axis: int, first: int, last: int) -> tuple[slice, tuple[int, int]]:
        """What the outputs ``first`` to ``last - 1`` along a spatial axis read.

        The slice of the unpadded input, and the (low, high) padding left over at its ends. Outputs that lie in
        padding altogether read an empty slice; all of their padding counts as low.
        """
        low, _ = self.padding[axis]
        start = first * self.stride[axis] - low
        stop = (last - 1) * self.stride[axis] - low + reach(self.kernel[axis], self.dilation[axis])
        return clipped(start, stop, self.size[axis])

    @cached_property
    def local(self) -> ConvProblem:
        """The same convolution of an image whose margins need no pixel from elsewhere: zeros may still be wanting."""
        return self if self.padding_mode == "constant" else self.padded

    @cached_property
    def padded(self) -> ConvProblem:
        """The same convolution of an image that already carries its padding."""
        return replace(self, size=self.padded_size, padding=((0, 0),) * self.ndim, padding_mode="constant")
