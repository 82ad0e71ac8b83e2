"""Columns and tiles: against PyTorch, against the convolution, and back again."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st

import polyconv as pc

RNG = np.random.default_rng(0)


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 10, shape)


SAID: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": 2, "padding": 1, "dilation": (2, 1)},
    {"kernel_size": (1, 4), "stride": (3, 1), "padding": (0, 2)},
]


@pytest.mark.parametrize("said", SAID)
def test_as_pytorch_has_them(said: dict[str, Any]) -> None:
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    x = integers(2, 3, 9, 8).astype("float64")
    columns = functional.unfold(torch.from_numpy(x), **said)
    np.testing.assert_array_equal(pc.unfold(x, **said), columns.numpy())
    np.testing.assert_array_equal(pc.fold(columns.numpy(), (9, 8), **said), functional.fold(columns, (9, 8), **said))


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "CHW", "HWC", "HW", "NHW", "HWNC"])
def test_folding_is_adjoint_to_unfolding(said: dict[str, Any], layout: str) -> None:
    """<columns, unfold(x)> = <fold(columns), x>, and a product of columns with a kernel is a convolution."""
    lengths = {"N": 2, "C": 3, "H": 9, "W": 8}
    x = integers(*(lengths[letter] for letter in layout))
    columns = pc.unfold(x, layout=layout, **said)
    other = integers(*columns.shape)
    image = pc.fold(other, (9, 8), layout=layout, **said)
    assert image.shape == x.shape
    assert (other * columns).sum() == (image * x).sum()
    kernel = said["kernel_size"]
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {key: value for key, value in said.items() if key != "kernel_size"}
    if layout in ("NHWC", "HWC"):
        w = integers(*taps, 3, 4)
        product = columns @ w.reshape(-1, 4)
    elif layout in ("NCHW", "CHW"):
        w = integers(4, 3, *taps)
        product = w.reshape(4, -1) @ columns
    elif layout in ("HW", "NHW"):
        w = integers(*taps)
        product = w.reshape(-1) @ columns
    else:
        return
    expected = pc.conv(x, w, layout=layout, **options)
    np.testing.assert_array_equal(product.reshape(expected.shape), expected)


def test_other_numbers_of_axes() -> None:
    signal, volume = integers(2, 3, 20), integers(1, 2, 5, 6, 7)
    columns = pc.unfold(signal, 4, stride=2, padding=1)
    assert columns.shape == (2, 12, 10)
    np.testing.assert_array_equal(
        (integers(1, 12) * 0 + 1) @ columns, pc.conv1d(signal, np.ones((1, 3, 4), int), stride=2, padding=1)
    )
    blocks = pc.unfold(volume, (1, 2, 7), stride=(1, 2, 1))
    np.testing.assert_array_equal(pc.fold(blocks, (5, 6, 7), (1, 2, 7), stride=(1, 2, 1)), volume)


def test_every_library(library: Backend) -> None:
    x = integers(2, 3, 6, 8)
    columns = pc.unfold(library.asarray(x), (3, 2), stride=2, padding=1)
    np.testing.assert_array_equal(library.to_numpy(columns), pc.unfold(x, (3, 2), stride=2, padding=1))
    image = pc.fold(columns, (6, 8), (3, 2), stride=2, padding=1)
    np.testing.assert_array_equal(
        library.to_numpy(image), pc.fold(library.to_numpy(columns), (6, 8), (3, 2), stride=2, padding=1)
    )
    tiles = pc.tile(library.asarray(x), (3, 4))
    np.testing.assert_array_equal(library.to_numpy(tiles)[1, 2, 1, 0], x[1, 2, 3:, :4])
    np.testing.assert_array_equal(library.to_numpy(pc.untile(tiles)), x)


@given(st.data())
def test_tiles_and_back(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(["NCHW", "NHWC", "HW", "CHW", "HWC", "NCDHW", "NDHWC", "NCW", "WNC"]))
    letters = [letter for letter in layout if letter not in "NC"]
    tile = {letter: data.draw(st.integers(1, 4)) for letter in letters}
    lengths = {letter: tile.get(letter, 1) * data.draw(st.integers(1, 3)) for letter in layout}
    x = integers(*(lengths[letter] for letter in layout))
    tiles = pc.tile(x, tuple(tile[letter] for letter in letters), layout=layout)
    assert tiles.flags.c_contiguous
    assert tiles.size == x.size
    np.testing.assert_array_equal(pc.untile(tiles, layout=layout), x)


def test_tiles_are_contiguous_blocks() -> None:
    x = integers(2, 3, 6, 8)
    tiles = pc.tile(x, (3, 4))
    assert tiles.shape == (2, 3, 2, 2, 3, 4)
    np.testing.assert_array_equal(tiles[1, 2, 1, 0], x[1, 2, 3:6, 0:4])
    last = pc.tile(x.transpose(0, 2, 3, 1), (3, 4), layout="NHWC")
    assert last.shape == (2, 2, 2, 3, 4, 3)
    np.testing.assert_array_equal(last[1, 1, 0], x[1, :, 3:6, 0:4].transpose(1, 2, 0))


X = np.ones((2, 3, 6, 8))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: pc.unfold(X, (3, 9), dilation=2),
            "kernel_size=(3, 9) is larger than the padded x along axis W: 9 taps (dilation 2, 17 elements wide) over "
            "8 elements; x has shape (2, 3, 6, 8), layout 'NCHW'",
        ),
        (lambda: pc.unfold(X[0, 0], 2), "x has 2 axes, shape (6, 8); without layout="),
        (lambda: pc.unfold(X, 2, layout="NC"), "layout='NC' has no spatial axis"),
        (lambda: pc.unfold(X, 2, layout="NCW"), "layout='NCW' spells 3 axes and x has 4"),
        (lambda: pc.unfold(X[:, :0], 2), "x has no channels; its shape is (2, 0, 6, 8)"),
        (lambda: pc.unfold(X, 0), "kernel_size=0 must be at least 1"),
        (lambda: pc.unfold(X, (1, 2, 3)), "kernel_size=(1, 2, 3) has 3 entries"),
        (lambda: pc.unfold(X, 2, layout="NHCW"), "has its channels among the spatial axes"),
        (lambda: pc.fold(np.ones((2, 27, 5)), (6, 8), 3), "columns has 5 windows, and an image of 6x8 has 24"),
        (lambda: pc.fold(np.ones((2, 26, 24)), (6, 8), 3), "(N, C * taps, windows) is wanted, of 9 taps"),
        (lambda: pc.fold(np.ones(9), (6, 8), 3), "columns has shape (9,)"),
        (lambda: pc.fold(np.ones((2, 0, 24)), (6, 8), 3), "of 9 taps, kernel_size=3"),
        (lambda: pc.fold(np.ones((2, 27, 24)), (6, 8), 3, layout="NC"), "layout='NC' has no spatial axis"),
        (
            lambda: pc.fold(np.ones((2, 27, 24)), (6, 2), 3),
            "kernel_size=3 is larger than the padded image along axis W: 3 taps over 2 elements; "
            "output_size=(6, 2), layout 'NCHW'",
        ),
        (lambda: pc.tile(X, 4), "tiles of 4 do not divide axis H of 6; pad x first"),
        (lambda: pc.tile(X, 2, layout="HW"), "with layout='HW' it must have 2 axes"),
        (lambda: pc.untile(X, layout="NCHW"), "with layout='NCHW' it must have 6 axes"),
    ],
)
def test_errors(call: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert said in str(caught.value)
    assert not re.search(r"\bw\b|kernel_layout", str(caught.value)), "what the caller never gave"


def test_dask_arrays_are_refused_by_name() -> None:
    da = pytest.importorskip("dask.array")
    x, columns, tiles = da.from_array(X), da.ones((2, 27, 24)), da.ones((2, 3, 2, 2, 3, 4))
    for name, call in (
        ("x is a Dask array, and unfold", lambda: pc.unfold(x, 3)),
        ("columns is a Dask array, and fold", lambda: pc.fold(columns, (6, 8), 3)),
        ("x is a Dask array, and tile", lambda: pc.tile(x, 2)),
        ("tiles is a Dask array, and untile", lambda: pc.untile(tiles)),
    ):
        with pytest.raises(TypeError, match=f"{name} takes arrays in memory; .*map_blocks"):
            call()
