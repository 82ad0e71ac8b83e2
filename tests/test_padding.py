"""Padding: how much, against the definition, and with what, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from backends import Backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ALIASES, MODES, values

import polyconv as pc
from polyconv import dtypes, padding
from polyconv.arrays import describe
from polyconv.problem import output_extent

Widths = tuple[tuple[int, int], ...]


def test_the_names() -> None:
    assert padding.MODES == MODES
    assert padding.MODE_ALIASES == ALIASES
    assert padding.NAMED == ("valid", "same", "same_upper", "same_lower")


# -- how much ------------------------------------------------------------------------------------------------


@settings(max_examples=1000)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7), st.integers(1, 5), st.booleans())
def test_same_is_the_least_that_gives_every_stride_its_output(
    size: int, kernel: int, stride: int, dilation: int, odd_at_end: bool
) -> None:
    low, high = padding.same(size, kernel, stride, dilation, odd_at_end)
    assert (low, high) == reference.same_padding(size, kernel, stride, dilation, odd_at_end)
    assert 0 <= (high - low if odd_at_end else low - high) <= 1
    assert output_extent(size + low + high, kernel, stride, dilation) == math.ceil(size / stride)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "upper", "lower"),
    [
        (5, 3, 1, 1, (1, 1), (1, 1)),
        (5, 2, 1, 1, (0, 1), (1, 0)),
        (6, 3, 2, 1, (0, 1), (1, 0)),  # TensorFlow's asymmetric case
        (5, 3, 2, 1, (1, 1), (1, 1)),
        (5, 1, 1, 4, (0, 0), (0, 0)),
        (5, 1, 3, 1, (0, 0), (0, 0)),  # a stride beyond the kernel: nothing is lacking
        (1, 3, 1, 2, (2, 2), (2, 2)),
        (224, 7, 2, 1, (2, 3), (3, 2)),
        (0, 3, 1, 1, (0, 0), (0, 0)),  # no windows are wanted
    ],
)
def test_same_on_known_cases(
    size: int, kernel: int, stride: int, dilation: int, upper: tuple[int, int], lower: tuple[int, int]
) -> None:
    assert padding.same(size, kernel, stride, dilation, True) == upper
    assert padding.same(size, kernel, stride, dilation, False) == lower


@given(st.data())
def test_same_in_a_call_is_its_amounts_in_numbers(data: st.DataObject) -> None:
    name, upper = data.draw(st.sampled_from([("same", True), ("same_upper", True), ("same_lower", False)]))
    mode = data.draw(st.sampled_from(MODES))
    size, kernel = (tuple(data.draw(st.integers(low, 9)) for _ in range(2)) for low in (6, 1))
    stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    amounts = tuple(reference.same_padding(*along, upper) for along in zip(size, kernel, stride, dilation, strict=True))
    if any(max(margin) >= n for margin, n in zip(amounts, size, strict=True)):
        mode = "constant"
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (1, 1, *size)), rng.integers(-9, 9, (1, 1, *kernel))
    told = {"stride": stride, "dilation": dilation, "padding_mode": mode}
    y = pc.conv2d(x, w, padding=name, **told)
    assert y.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))
    np.testing.assert_array_equal(y, pc.conv2d(x, w, padding=amounts, **told), strict=True)


# -- with what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_widest_is_what_can_be_filled_without_repeating(mode: str, size: int) -> None:
    """Up to the widest margin, one reach into the axis fills it, by the definition; beyond, it does not."""
    widest = padding.widest(size, mode)
    if mode == "constant" or (mode == "edge" and size):
        assert widest is None
        return
    assert widest is not None

    def filled(margin: int) -> bool:
        sources = reference.padded_indices(size, margin, margin, mode)
        return all(source is not None and 0 <= source < size for source in sources)

    assert filled(widest)
    assert not filled(widest + 1)


@st.composite
def padded(draw: st.DrawFn, dtypes: tuple[str, ...]) -> tuple[np.ndarray, Widths, str]:
    """An array, margins that its axes can fill, and a mode."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    mode = draw(st.sampled_from(MODES))
    limits = [min(n if n is not None else 6, 6) for n in (padding.widest(size, mode) for size in shape)]
    widths = tuple((draw(st.integers(0, limit)), draw(st.integers(0, limit))) for limit in limits)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return values(rng, shape, draw(st.sampled_from(dtypes))), widths, mode


def test_pad_is_numpys(xp: Backend) -> None:
    @settings(max_examples=min(100, 5 * xp.examples), suppress_health_check=list(HealthCheck))
    @given(padded(xp.dtypes + xp.halves))
    def check(drawn: tuple[np.ndarray, Widths, str]) -> None:
        x, widths, mode = drawn
        image = xp.asarray(x)
        y = padding.pad(image, widths, mode, describe(image, "x").xp)
        assert xp.home(y) == xp.home(image)
        assert dtypes.name(y.dtype) == dtypes.name(image.dtype)  # a byte order may turn native
        np.testing.assert_array_equal(xp.to_numpy(image), x, err_msg="the input was written to")
        # NumPy fills axes of no elements with constants alone
        modes: dict[str, Any] = {"mode": "constant"} if 0 in x.shape else {"mode": mode}
        np.testing.assert_array_equal(xp.to_numpy(y), np.pad(x, widths, **modes))

    check()


@pytest.mark.parametrize("mode", MODES)
def test_pad_with_the_widest_margins(library: Backend, mode: str) -> None:
    x = np.arange(12.0).reshape(3, 4)
    widths = tuple((n, n) for n in (padding.widest(size, mode) or 7 for size in x.shape))
    image = library.asarray(x)
    y = padding.pad(image, widths, mode, describe(image, "x").xp)
    np.testing.assert_array_equal(library.to_numpy(y), np.pad(x, widths, mode=mode))  # type: ignore[call-overload]


@pytest.mark.parametrize("mode", MODES)
def test_pad_without_margins_is_the_array_itself(library: Backend, mode: str) -> None:
    x = library.asarray(np.ones((2, 3)))
    assert padding.pad(x, ((0, 0), (0, 0)), mode, describe(x, "x").xp) is x


@pytest.mark.parametrize("mode", [*MODES, *ALIASES])
def test_a_padded_convolution_is_one_of_the_padded_image(library: Backend, mode: str) -> None:
    """Margins of batch and channels stay empty, whatever the layout and the mode."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (2, 4, 5, 3)), rng.integers(-9, 9, (2, 3, 3, 2))
    margins = ((0, 0), (2, 1), (0, 3), (0, 0))
    wide = np.pad(x, margins, mode=ALIASES.get(mode, mode))  # type: ignore[call-overload]
    told = {"layout": "NHWC", "stride": (1, 2)}
    y = pc.conv2d(library.asarray(x), library.asarray(w), padding=margins[1:3], padding_mode=mode, **told)
    np.testing.assert_array_equal(library.to_numpy(y), pc.conv2d(wide, w, **told), strict=True)
