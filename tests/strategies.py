"""Random problems: everything a caller may say, drawn at random and small enough for nested loops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import reference
from hypothesis import strategies as st

MODES = ("constant", "reflect", "symmetric", "edge", "wrap")
ALIASES = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}


@dataclass(frozen=True)
class Case:
    """One call: NumPy arrays and keywords as a user passes them, and the same said to the reference.

    ``canonical`` holds the reference's keywords: pairs of padding, letters for every axis.
    """

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    keywords: dict[str, Any]
    canonical: dict[str, Any]

    @property
    def depthwise(self) -> bool:
        """Each group has one input channel."""
        layout = self.canonical["kernel_layout"]
        return "I" not in layout or self.w.shape[layout.index("I")] == 1

    @property
    def pointwise(self) -> bool:
        """The kernel has one tap."""
        return all(n == 1 for n, a in zip(self.w.shape, self.canonical["kernel_layout"], strict=True) if a not in "OI")

    @property
    def axes(self) -> list[tuple[int, int, int]]:
        """Taps, stride and dilation of each spatial axis."""
        taps = dict(zip(self.canonical["kernel_layout"], self.w.shape, strict=True))
        letters = [letter for letter in self.canonical["layout"] if letter not in "NC"]
        return [
            (taps[letter], *steps)
            for letter, *steps in zip(letters, self.canonical["stride"], self.canonical["dilation"], strict=True)
        ]

    def expected(self) -> np.ndarray:
        """The result by definition."""
        return reference.convolve(self.x, self.w, self.bias, **self.canonical)

    def magnitude(self) -> np.ndarray:
        """The sum of the absolute values of all terms of each output: what rounding errors are in proportion to."""
        bias = None if self.bias is None else np.abs(self.bias)
        return reference.convolve(np.abs(self.x), np.abs(self.w), bias, **self.canonical).astype(float)

    @property
    def terms(self) -> int:
        """How many products one output sums, the bias counted as one more."""
        layout = self.canonical["kernel_layout"]
        return math.prod(n for n, a in zip(self.w.shape, layout, strict=True) if a != "O") + 1


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random numbers of a dtype: small integers, or normal deviates."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        return rng.integers(-9 if kind == "i" else 0, 10, shape).astype(dtype)
    if kind == "c":
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def spelled_for_all_axes(draw: st.DrawFn, entries: tuple[Any, ...]) -> Any:
    """One integer for all axes, where they agree and the draw says so; else one for each, as a tuple or a list."""
    if len(set(entries)) == 1 and isinstance(entries[0], int) and draw(st.booleans()):
        return entries[0]
    return draw(st.sampled_from([tuple, list]))(entries)


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float64",), max_terms: int = 1500) -> Case:
    """A convolution with any keyword that the API has, of at most about ``max_terms`` products."""
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    small = st.integers(1, {1: 9, 2: 6, 3: 3}[ndim])
    batch = draw(st.integers(1, 3))
    has_batch = draw(st.booleans())
    has_channels = draw(st.sampled_from([True, True, True, False]))
    groups = draw(st.integers(1, 3)) if has_channels else 1
    channels = draw(st.integers(1, 3)) if has_channels else 1
    filters = draw(st.integers(1, 3)) if has_channels else 1

    spatial = "DHW"[-ndim:]
    letters = spatial + "N" * has_batch + "C" * has_channels
    usual = ["N" * has_batch + "C" * has_channels + spatial, "N" * has_batch + spatial + "C" * has_channels]
    layout = draw(st.one_of(st.sampled_from(usual), st.permutations(letters).map("".join)))
    order = [letter for letter in layout if letter in spatial]  # axis i of stride, dilation and padding

    kernel = {letter: draw(st.integers(1, {1: 5, 2: 3, 3: 2}[ndim])) for letter in order}
    stride = tuple(draw(st.integers(1, 3)) for _ in order)
    dilation = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in order)
    mode = draw(st.sampled_from(MODES))
    spans = {letter: (kernel[letter] - 1) * d + 1 for letter, d in zip(order, dilation, strict=True)}

    named = draw(st.sampled_from([None, None, "valid", "same", "same_upper", "same_lower"]))
    sizes, pads = {}, []
    for i, letter in enumerate(order):
        size = draw(small)
        if named in (None, "valid"):
            low, high = (0, 0) if named else (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        else:
            low = high = spans[letter]  # no more than this; the reference says how much
        if mode != "constant":  # wide enough for its own margin
            size = max(size, low + 1, high + 1)
        size = max(size, spans[letter] - (low + high) * (named is None))
        if named in ("same", "same_upper", "same_lower"):
            low, high = reference.same_padding(size, kernel[letter], stride[i], dilation[i], named != "same_lower")
        sizes[letter] = size
        pads.append((low, high))

    extents = {"N": batch, "C": groups * channels, **sizes}
    outputs = [
        reference.windows_that_fit(sizes[a] + sum(pads[i]), kernel[a], stride[i], dilation[i])
        for i, a in enumerate(order)
    ]
    products = groups * channels * filters * math.prod(kernel.values()) * math.prod(outputs)
    if products * batch > max_terms and has_batch:
        extents["N"] = 1
    if products > max_terms and has_channels:  # keep the space, drop the channels
        groups = channels = filters = 1
        extents["C"] = 1

    kernel_extents = {"O": groups * filters, "I": channels, **kernel}
    kernel_letters = "".join(order) + "OI" * has_channels
    first, last = "OI" + "".join(order), "".join(order) + "IO"
    if not has_channels:
        default = "".join(order)
    elif layout.index("C") < min(map(layout.index, order)):
        default = first
    elif layout.index("C") > max(map(layout.index, order)):
        default = last
    else:
        default = None
    kernel_layout = draw(st.permutations(kernel_letters).map("".join))
    if default is not None and draw(st.booleans()):
        kernel_layout = default

    dtype, kernel_dtype = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = values(rng, tuple(extents[letter] for letter in layout), dtype)
    w = values(rng, tuple(kernel_extents[letter] for letter in kernel_layout), kernel_dtype)
    bias = None
    if draw(st.booleans()):
        bias_dtype = dtype if np.result_type(dtype, kernel_dtype).kind not in "iub" else "int8"
        bias_dtype = "int8" if bias_dtype == "bool" else bias_dtype
        unsigned = np.dtype(dtype).kind in "ub" and np.dtype(kernel_dtype).kind in "ub"
        bias_dtype = "uint8" if bias_dtype == "int8" and unsigned else bias_dtype
        bias = values(rng, (groups * filters,) if has_channels else (), bias_dtype)

    flip = draw(st.booleans())
    aliases = [mode, *(alias for alias, name in ALIASES.items() if name == mode)]
    keywords: dict[str, Any] = {
        "stride": spelled_for_all_axes(draw, stride),
        "dilation": spelled_for_all_axes(draw, dilation),
        "padding": named or spelled_for_all_axes(draw, tuple(p[0] if p[0] == p[1] else p for p in pads)),
        "padding_mode": draw(st.sampled_from(aliases)),
        "groups": groups,
        "layout": layout,
        "kernel_layout": None if kernel_layout == default and draw(st.booleans()) else kernel_layout,
        "flip_kernel": flip,
    }
    canonical = {
        "layout": layout,
        "kernel_layout": kernel_layout,
        "stride": stride,
        "dilation": dilation,
        "padding": tuple(pads),
        "padding_mode": mode,
        "groups": groups,
        "flip_kernel": flip,
    }
    return Case(x, w, bias, keywords, canonical)
