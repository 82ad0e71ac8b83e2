"""Padding: how much, and with what.

Amounts follow TensorFlow's ``same`` and PyTorch's ``same`` (which agree where both are defined) and extend
them to any stride; contents follow :func:`numpy.pad`, whose names are used, and PyTorch's, taken as aliases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import device, workspace, written_in_place
from .problem import reach

__all__ = ["MODES", "MODE_ALIASES", "NAMED", "pad", "same", "source", "unpad", "widest"]

MODES = ("constant", "reflect", "symmetric", "edge", "wrap")
MODE_ALIASES = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}
NAMED = ("valid", "same", "same_upper", "same_lower")


def same(size: int, kernel: int, stride: int, dilation: int, odd_at_end: bool) -> tuple[int, int]:
    """The (low, high) padding that makes the output ``ceil(size / stride)`` long; an odd one goes to one end."""
    if size == 0:
        return 0, 0
    output = -(-size // stride)
    total = max((output - 1) * stride + reach(kernel, dilation) - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if odd_at_end else (more, less)


def widest(size: int, mode: str) -> int | None:
    """The widest margin that ``mode`` can fill from an axis of ``size`` elements; None where there is no limit."""
    if mode == "constant":
        return None
    if mode == "edge":
        return None if size else 0
    return max(size - 1, 0) if mode == "reflect" else size


def source(position: int, size: int, mode: str) -> int:
    """Which element of an axis stands at ``position``, before its start (negative) or past its end."""
    if mode == "edge":
        return min(max(position, 0), size - 1)
    if mode == "wrap":
        return position % size
    # Both mirrors repeat with a period: reflect does not repeat the edge element, symmetric does.
    period, last = (2 * size - 2, 2 * size - 2) if mode == "reflect" else (2 * size, 2 * size - 1)
    position %= period
    return position if position < size else last - position


def pad(x: Any, widths: Sequence[tuple[int, int]], mode: str, xp: Any) -> Any:
    """``x`` with a (low, high) margin along each axis, filled as ``mode`` says; ``x`` itself without margins."""
    if not any(map(any, widths)):
        return x
    if mode == "constant":
        if not written_in_place(x):
            import array_api_extra as xpx  # slow to import, and few need it

            return xpx.pad(x, tuple(widths), xp=xp)
        shape = tuple(n + low + high for n, (low, high) in zip(x.shape, widths, strict=True))
        inside = tuple(slice(low, low + n) for n, (low, _) in zip(x.shape, widths, strict=True))
        where = device(x)
        padded, zero = workspace(shape, x.dtype, where, xp), xp.zeros((), dtype=x.dtype, device=where)
        for axis, middle in enumerate(inside):  # what lies before and behind along it, and no further out than that
            for side in (slice(middle.start), slice(middle.stop, None)):
                padded[(*inside[:axis], side, ...)] = zero
        padded[inside] = x
        return padded
    for axis, (low, high) in enumerate(widths):
        size = x.shape[axis]
        margins = [[source(i, size, mode) for i in range(*ends)] for ends in ((-low, 0), (size, size + high))]
        before, after = (
            [xp.take(x, xp.asarray(margin, device=device(x)), axis=axis)] if margin else [] for margin in margins
        )
        if before or after:
            x = xp.concat([*before, x, *after], axis=axis)
    return x


def unpad(y: Any, widths: Sequence[tuple[int, int]], mode: str, xp: Any) -> Any:
    """The adjoint of :func:`pad`: margins are taken off, and what they hold is added to where they came from."""
    in_place = written_in_place(y)
    for axis, (low, high) in reversed([*enumerate(widths)]):
        if not (low or high):
            continue
        before, size = (slice(None),) * axis, y.shape[axis] - low - high
        core = xp.asarray(y[(*before, slice(low, low + size), ...)], copy=True)
        if mode != "constant":
            for i in (*range(-low, 0), *range(size, size + high)):
                at, line = source(i, size, mode), y[(*before, slice(low + i, low + i + 1), ...)]
                where: Any = (*before, slice(at, at + 1), ...)
                if in_place:
                    core[where] += line
                else:
                    import array_api_extra as xpx  # slow to import, and few need it

                    core = xpx.at(core, where).add(line, xp=xp)
        y = core
    return y
