"""Layouts: spellings into permutations."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyconv as pc
from polyconv import layouts

SPATIAL = sorted(set(string.ascii_uppercase) - set("NCOI"))


@st.composite
def image_layouts(draw: st.DrawFn) -> str:
    """Any layout an image may have."""
    spatial = draw(st.lists(st.sampled_from(SPATIAL), min_size=1, max_size=4, unique=True))
    roles = draw(st.sampled_from(["", "N", "C", "NC"]))
    return "".join(draw(st.permutations([*spatial, *roles])))


def lengths(layout: str) -> dict[str, int]:
    """A length of its own for each letter, so that no two axes can be taken for each other."""
    return {letter: 2 + i for i, letter in enumerate(sorted(layout))}


@given(image_layouts())
def test_spatial_letters_are_what_is_neither_batch_nor_channels(layout: str) -> None:
    spatial = layouts.spatial_letters(layout)
    assert [*spatial] == [letter for letter in layout if letter in SPATIAL]
    assert layouts.spatial_letters("OI" + spatial) == spatial, "of a kernel's layout as well"


def test_default_layouts() -> None:
    known = {1: "NCW", 2: "NCHW", 3: "NCDHW", 4: "NCTDHW"}
    assert layouts.most_spatial_axes() >= max(known)
    for ndim in range(1, layouts.most_spatial_axes() + 1):
        layout = layouts.default_layout(ndim)
        assert layout == known.get(ndim, layout)
        assert layout[:2] == "NC"
        assert len(layout) == len(set(layout)) == ndim + 2
        assert set(layout[2:]) <= set(SPATIAL)
        assert layouts.default_kernel_layout(layout) == "OI" + layout[2:]


def test_the_other_kernel_layout_is_what_goes_with_channels_at_the_other_end() -> None:
    for ndim in range(1, layouts.most_spatial_axes() + 1):
        first, last = f"NC{layouts.space(ndim)}", f"N{layouts.space(ndim)}C"
        for transposed in (False, True):
            kernels = [layouts.default_kernel_layout(layout, transposed) for layout in (first, last)]
            assert None not in kernels
            assert [layouts.other_kernel_layout(str(kernel)) for kernel in kernels] == kernels[::-1]


@pytest.mark.parametrize(
    ("layout", "kernel_layout"),
    [
        ("NCW", "OIW"),
        ("NCHW", "OIHW"),
        ("CNHW", "OIHW"),
        ("CHWN", "OIHW"),
        ("CHW", "OIHW"),
        ("CWH", "OIWH"),
        ("NCDHW", "OIDHW"),
        ("NHWC", "HWIO"),
        ("HWC", "HWIO"),
        ("HWCN", "HWIO"),
        ("HWNC", "HWIO"),
        ("HNWC", "HWIO"),
        ("WHC", "WHIO"),
        ("WC", "WIO"),
        ("NDHWC", "DHWIO"),
        ("HW", "HW"),
        ("NHW", "HW"),
        ("WNH", "WH"),
        ("W", "W"),
        ("NHCW", None),
        ("HCW", None),
        ("DCHNW", None),
    ],
)
def test_default_kernel_layouts(layout: str, kernel_layout: str | None) -> None:
    assert layouts.default_kernel_layout(layout) == kernel_layout
    assert layouts.channels_last(layout) == (kernel_layout is not None and kernel_layout.endswith("IO"))


@given(image_layouts())
def test_channels_are_last_where_every_spatial_axis_stands_before_them(layout: str) -> None:
    after = layout.partition("C")[2] if "C" in layout else layout
    assert layouts.channels_last(layout) == (not set(after) - {"N"})


@given(image_layouts(), st.data())
def test_axes_in_brings_an_array_into_order(layout: str, data: st.DataObject) -> None:
    order = "".join(data.draw(st.permutations([*layout, *data.draw(st.sampled_from(["", "X", "N", "C", "NC"]))])))
    order = "".join(dict.fromkeys(order))
    length = lengths(layout)
    x = np.zeros([length[letter] for letter in layout])
    ordered = np.transpose(x, layouts.axes_in(layout, order))
    assert ordered.shape == tuple(length[letter] for letter in order if letter in layout)


def test_axes_in_as_its_docstring_says() -> None:
    assert layouts.axes_in("NHWC", "NCHW") == (0, 3, 1, 2)
    assert layouts.axes_in("HWC", "NCHW") == (2, 0, 1)
    assert layouts.axes_in("NCHW", "NCHW") == (0, 1, 2, 3)
    assert layouts.axes_in("HWIO", "OIHW") == (3, 2, 0, 1)


def test_output_axes_put_absent_letters_first() -> None:
    assert layouts.output_axes("NCHW") == (0, 1, 2, 3, 4)
    assert layouts.output_axes("NHWC") == (0, 3, 4, 1, 2)
    assert layouts.output_axes("HWC") == (0, 3, 4, 1, 2)
    assert layouts.output_axes("WH") == (0, 1, 2, 3, 4), "W is the first spatial axis there"
    assert layouts.output_axes("HWN") == (1, 2, 3, 4, 0)


@given(image_layouts(), st.integers(1, 3))
def test_output_axes_bring_a_result_into_the_layout(layout: str, groups: int) -> None:
    """Elements are checked, not shapes: the channel of group g and filter k is g * filters + k."""
    spatial, length = layouts.spatial_letters(layout), lengths(layout)
    batch = length.get("N", 1)
    groups, filters = (groups, length["C"]) if "C" in layout else (1, 1)
    out = tuple(length[letter] for letter in spatial)
    result = np.arange(batch * groups * filters * np.prod(out)).reshape(batch, groups, filters, *out)

    extents = length | {"C": groups * filters}
    y = np.transpose(result, layouts.output_axes(layout)).reshape([extents[letter] for letter in layout])

    full = "NC" + spatial
    by_channel = result.reshape(batch, groups * filters, *out)
    absent = tuple(i for i, letter in enumerate(full) if letter not in layout)
    letters = [letter for letter in full if letter in layout]
    expected = np.transpose(np.squeeze(by_channel, absent), [letters.index(letter) for letter in layout])
    np.testing.assert_array_equal(y, expected, strict=True)


@given(image_layouts(), st.data())
def test_a_convolution_in_any_layout_is_the_transposed_one(layout: str, data: st.DataObject) -> None:
    spatial = layouts.spatial_letters(layout)
    kernel_letters = spatial + "OI" * ("C" in layout)
    kernel_layout = "".join(data.draw(st.permutations(kernel_letters)))
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (2, 2, *(4, 3, 2, 3)[: len(spatial)])), rng.integers(-9, 9, (3, 2, *(2,) * len(spatial)))
    bias = rng.integers(-9, 9, 3)
    if "C" not in layout:
        x, w, bias = x[:, :1], w[:1, :1], bias[:1]
    if "N" not in layout:
        x = x[:1]
    expected = pc.conv(x, w, bias, padding="same")

    def spelled(a: np.ndarray, full: str, wanted: str) -> np.ndarray:
        """``a``, whose axes are ``full``, with those that are ``wanted``, in that order."""
        a = np.squeeze(a, tuple(i for i, letter in enumerate(full) if letter not in wanted))
        letters = [letter for letter in full if letter in wanted]
        return np.transpose(a, [letters.index(letter) for letter in wanted])

    y = pc.conv(
        spelled(x, "NC" + spatial, layout),
        spelled(w, "OI" + spatial, kernel_layout),
        bias if "C" in layout else bias[0],
        layout=layout,
        kernel_layout=kernel_layout,
        padding="same",
    )
    np.testing.assert_array_equal(y, spelled(expected, "NC" + spatial, layout), strict=True)
