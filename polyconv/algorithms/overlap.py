"""Overlapping blocks: an image cut so that each block of it yields one block of the result.

A block of ``m`` outputs along an axis reads ``m + k - 1`` inputs, so neighbouring blocks share ``k - 1`` of them. What
Winograd's method calls tiles is what signal processing calls overlap-save (Oppenheim & Schafer, "Discrete-time signal
processing", section 8.7.3); both transform a block, multiply, and transform back. Problems here have neither stride
nor dilation.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import ModuleType

from ..arrays import Array, windows
from ..padding import pad
from ..problem import ConvProblem

__all__ = ["assemble", "blocks", "gather"]


@lru_cache
def blocks(p: ConvProblem, m: tuple[int, ...]) -> ConvProblem:
    """The blocks as windows: their ``kernel`` is a block's inputs, their ``output_size`` the number of blocks.

    The last block may reach past the end of the image; ``size`` is the image's size with that margin.
    """
    number = [-(-outputs // step) for outputs, step in zip(p.output_size, m, strict=True)]
    span = [step + kernel - 1 for step, kernel in zip(m, p.kernel, strict=True)]
    size = [(n - 1) * step + length for n, step, length in zip(number, m, span, strict=True)]
    return replace(p, size=tuple(size), kernel=tuple(span), stride=m)


def gather(x: Array, p: ConvProblem, m: tuple[int, ...], xp: ModuleType) -> Array:
    """Every block of an image: ``(N, G, C, *size)`` -> ``(N, G, C, *inputs of a block, *number of blocks)``."""
    cut = blocks(p, m)
    margins = [(0, wanted - size) for wanted, size in zip(cut.size, p.size, strict=True)]
    return windows(pad(x, [(0, 0)] * 3 + margins, "constant", xp), cut, xp)


def assemble(y: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """Blocks of the result side by side: ``(N, G, K, *number of blocks, *m)`` -> ``(N, G, K, *output_size)``.

    In memory the result has its channels innermost where the problem says so.
    """
    n = p.ndim
    number, m = y.shape[3 : 3 + n], y.shape[3 + n :]
    space = [axis for i in range(n) for axis in (3 + i, 3 + n + i)]
    lengths = tuple(count * step for count, step in zip(number, m, strict=True))
    inside = tuple(slice(length) for length in p.output_size)
    if not p.channels_last:
        y = xp.reshape(xp.permute_dims(y, (0, 1, 2, *space)), (*y.shape[:3], *lengths))
        return y[(slice(None), slice(None), slice(None), *inside)]
    shape = (y.shape[0], *lengths, *y.shape[1:3])
    y = xp.reshape(xp.permute_dims(y, (0, *space, 1, 2)), shape)[(slice(None), *inside, ...)]
    return xp.permute_dims(y, (0, n + 1, n + 2, *range(1, n + 1)))
