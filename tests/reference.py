"""The definition of convolution, in nested Python loops.

Slow and plain on purpose, and independent: nothing here comes from polyconv, and nothing from a library's
convolution, padding or windows. Integers are summed as Python integers, so exactly; floats by ``math.fsum``.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def padded_indices(n: int, low: int, high: int, mode: str) -> list[int | None]:
    """For each place of a padded axis, the element that stands there; None for a zero."""
    axis = list(range(n))
    before_and_after: dict[str, tuple[Any, Any]] = {
        "constant": ([None] * low, [None] * high),
        "edge": ([0] * low, [n - 1] * high),
        "wrap": (range(n - low, n), range(high)),
        "symmetric": (range(low - 1, -1, -1), range(n - 1, n - 1 - high, -1)),
        "reflect": (range(low, 0, -1), range(n - 2, n - 2 - high, -1)),
    }
    before, after = before_and_after[mode]
    return [*before, *axis, *after]


def windows_that_fit(padded: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows start inside an axis and end inside it, counted one by one."""
    last_tap = (kernel - 1) * dilation
    return sum(1 for start in range(0, padded, stride) if start + last_tap < padded)


def same_padding(n: int, kernel: int, stride: int, dilation: int, extra_at_end: bool) -> tuple[int, int]:
    """The least padding that yields one output for every ``stride`` inputs begun, by trying 0, 1, 2, ..."""
    wanted = math.ceil(n / stride)
    total = next(t for t in itertools.count() if windows_that_fit(n + t, kernel, stride, dilation) >= wanted)
    half = total // 2
    return (half, total - half) if extra_at_end else (total - half, half)


def convolve(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    layout: str,
    kernel_layout: str,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    padding_mode: str = "constant",
    groups: int = 1,
    flip_kernel: bool = False,
) -> np.ndarray:
    """The convolution of ``x`` with ``w``, in Python numbers: an object array of the result's shape."""
    letters = [letter for letter in layout if letter not in "NC"]
    sizes, taps = dict(zip(layout, x.shape, strict=True)), dict(zip(kernel_layout, w.shape, strict=True))
    filters, per_group = taps.get("O", 1), taps.get("I", 1)
    filters_per_group = filters // groups

    sources = {}
    out = {"N": sizes.get("N", 1), "C": filters}
    for i, letter in enumerate(letters):
        sources[letter] = padded_indices(sizes[letter], *padding[i], padding_mode)
        out[letter] = windows_that_fit(len(sources[letter]), taps[letter], stride[i], dilation[i])

    y = np.empty(tuple(out[letter] for letter in layout), dtype=object)
    for place in itertools.product(*(range(out[letter]) for letter in layout)):
        at = dict(zip(layout, place, strict=True))
        k = at.get("C", 0)
        group = k // filters_per_group
        terms = []
        for c in range(per_group):
            for tap in itertools.product(*(range(taps[letter]) for letter in letters)):
                source: dict[str, int | None] = {"N": at.get("N", 0), "C": group * per_group + c}
                tap_at = {"O": k, "I": c}
                for i, letter in enumerate(letters):
                    source[letter] = sources[letter][at[letter] * stride[i] + tap[i] * dilation[i]]
                    tap_at[letter] = taps[letter] - 1 - tap[i] if flip_kernel else tap[i]
                if None not in source.values():
                    pixel = x[tuple(source[letter] for letter in layout)].item()
                    terms.append(pixel * w[tuple(tap_at[letter] for letter in kernel_layout)].item())
        if bias is not None:
            terms.append(bias[k].item() if bias.ndim else bias.item())
        y[place] = total(terms)
    return y


def total(terms: list[Any]) -> Any:
    """The sum of Python numbers: exact for integers, correctly rounded for floats."""
    if any(isinstance(term, complex) for term in terms):
        return complex(math.fsum(t.real for t in terms), math.fsum(t.imag for t in terms))
    if any(isinstance(term, float) for term in terms):
        return math.fsum(terms)
    return sum(terms)
