"""Tiles: they cover the problem once, keep to their limit, and change no result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from backends import Backend
from hypothesis import given, settings
from hypothesis import strategies as st
from spy import only
from strategies import Case, cases

import polyconv as pc
from polyconv import tiling
from polyconv.algorithms import ALGORITHMS
from polyconv.dtypes import Dtypes
from polyconv.execution import road


@st.composite
def problems(draw: st.DrawFn) -> pc.ConvProblem:
    """A problem in one or two axes, padded as drawn."""
    ndim = draw(st.integers(1, 2))

    def per_axis(entries: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(entries) for _ in range(ndim))

    small = st.integers(1, 3)
    kernel, stride, dilation = per_axis(st.integers(1, 4)), per_axis(small), per_axis(small)
    size = tuple((k - 1) * d + 1 + draw(st.integers(0, 12)) for k, d in zip(kernel, dilation, strict=True))
    padding = tuple((draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(ndim))
    batch = draw(st.integers(1, 7))
    return pc.ConvProblem(batch, 1, 2, 3, size, kernel, stride, dilation, padding)


@given(problems(), st.data())
def test_a_window_is_what_its_outputs_read(p: pc.ConvProblem, data: st.DataObject) -> None:
    """Convolving the window, with the padding left over, gives just those outputs; by definition, on integers."""
    first = data.draw(st.integers(0, p.output_size[0] - 1))
    last = data.draw(st.integers(first + 1, p.output_size[0]))
    window, left_over = p.window(0, first, last)
    rng = np.random.default_rng(0)
    letters = "HW"[: p.ndim]
    x, w = rng.integers(-9, 9, p.size), rng.integers(-9, 9, p.kernel)
    said = {"layout": letters, "kernel_layout": letters, "stride": p.stride, "dilation": p.dilation}
    everything = reference.convolve(x, w, padding=p.padding, **said)
    some = reference.convolve(x[window], w, padding=(left_over, *p.padding[1:]), **said)
    np.testing.assert_array_equal(some, everything[first:last])


@given(problems(), st.integers(0, 4000), st.integers(1, 5))
def test_the_cut_is_the_largest_by_halving_within_the_limit(p: pc.ConvProblem, limit: int, grain: int) -> None:
    def elements(tile: tiling.Tile) -> int:
        q = tiling.part(p, tile)
        return q.output_elements + q.image_elements

    p = p.padded
    tile = tiling.cut(p, elements, limit, grain)
    images, rows, _ = tile
    assert 1 <= images <= p.batch
    assert 1 <= rows <= p.output_size[0]
    assert rows % grain == 0 or rows == p.output_size[0]
    assert images == 1 or rows == p.output_size[0]  # rows are not cut before images are
    if elements(tiling.whole(p)) <= limit:
        assert tile == tiling.whole(p)
    if images > 1 or rows > grain:
        assert elements(tile) <= limit


@given(problems(), st.integers(1, 7), st.integers(1, 9), st.integers(1, 3))
def test_tiles_cover_the_result_once(p: pc.ConvProblem, images: int, rows: int, workers: int) -> None:
    """Margins are added to tiles, and the bias; the dtype of the sums is what the algorithm sees."""
    p = replace(p, dtype="float64")
    tile = tiling.Tile(min(images, p.batch), min(rows, p.output_size[0]))
    seen: list[pc.ConvProblem] = []
    inside: list[int] = []

    def ones(x: np.ndarray, w: np.ndarray, q: pc.ConvProblem, xp: object) -> np.ndarray:
        assert x.shape == (q.batch, q.groups, q.channels, *q.size)
        assert x.dtype == np.float64
        inside.append(int(x.sum()))
        seen.append(q)
        assert w is kernels[0]
        return np.ones((q.batch, q.groups, q.filters, *q.output_size))

    count_ones = pc.Algorithm("ones", ones, ALGORITHMS[0].cost, ALGORITHMS[0].reject)
    x, kernels = np.ones((p.batch, 1, 2, *p.size), dtype=np.int8), (object(),)  # whatever an algorithm prepares
    bias = np.arange(3.0).reshape((1, 3) + (1,) * p.ndim)
    dtypes = Dtypes(np.dtype(np.float64), np.dtype(np.float32))
    y = tiling.Tiles(count_ones, p, tile, workers, dtypes, "cpu", np)(x, kernels, bias)
    assert y.dtype == np.float32
    assert (y == 1 + bias).all()
    if tile == tiling.whole(p):
        assert sum(inside) == x[:, :, :, p.window(0, 0, p.output_size[0])[0]].size  # each pixel once, between zeros
    assert sum(q.output_elements for q in seen) == p.output_elements == y.size
    assert len(seen) == tiling.count(p, tile)


def test_a_tight_limit_changes_no_result(library: Backend) -> None:
    """Every algorithm, cut as small as it goes, gives exactly what it gives whole."""

    @settings(max_examples=library.examples // 4 or 1)
    @given(cases(dtypes=("int32", "int64"), max_terms=300))
    def check(case: Case) -> None:
        x, w = library.asarray(case.x), library.asarray(case.w)
        bias = None if case.bias is None else library.asarray(case.bias)
        expected = case.expected().astype(np.int64)
        for candidate in pc.plan(x, w, **case.keywords).candidates:
            if candidate.reason:
                continue
            y, tiles = tightest(x, w, bias, candidate.name, case.keywords)
            np.testing.assert_array_equal(library.to_numpy(y), expected, err_msg=f"{candidate.name} in {tiles} tiles")
            assert library.home(y) == library.home(x)

    check()


def tightest(x: object, w: object, bias: object, algorithm: str, keywords: dict[str, object]) -> tuple[object, int]:
    """The result under the least ``max_workspace`` that the algorithm accepts, and in how many tiles it ran."""
    low, high = -1, pc.plan(x, w, algorithm=algorithm, **keywords).chosen.workspace  # refused, accepted
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.plan(x, w, algorithm=algorithm, max_workspace=middle, **keywords)
            high = middle
        except ValueError:
            low = middle
    with only(algorithm) as ran:
        y = pc.conv(x, w, bias, algorithm=algorithm, max_workspace=high, **keywords)
    return y, len(ran)


def test_tiles_are_as_many_as_the_plan_says() -> None:
    x, w = np.ones((6, 3, 500, 500), dtype=np.float32), np.ones((4, 3, 3, 3), dtype=np.float32)
    plan = pc.plan(x, w, algorithm="im2col")
    tile = {c.name: c for c in plan.candidates}["im2col"].tile
    with only("im2col") as ran:
        y = pc.conv2d(x, w, algorithm="im2col")
    assert len(ran) == tiling.count(plan.call.problem, tile) > 6
    assert (y == 27).all()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workspace_does_not_grow_with_the_image(workers: int) -> None:
    def workspace(height: int, width: int, algorithm: str | pc.Algorithm) -> int:
        x, w = np.empty((4, 3, height, width), dtype=np.float32), np.empty((8, 3, 3, 3), dtype=np.float32)
        return pc.plan(x, w, workers=workers, algorithm=algorithm).chosen.workspace

    for algorithm in ("im2col", "taps", "tensordot", "einsum", "strided_sum", "winograd"):
        assert workspace(1000, 1000, algorithm) <= workers * 14 * 2**20
        assert workspace(4000, 4000, algorithm) <= workers * 14 * 2**20
    # A tile of Fourier transforms is one row of large blocks, as long as the image is wide.
    blocks = pc.FFT((24, 24))
    assert workspace(4000, 1000, blocks) == workspace(1000, 1000, blocks) <= workers * 14 * 2**20
    # Loops that need no workspace may have to copy the image all the same.
    for algorithm in ("direct", "fft"):
        assert workspace(4000, 4000, algorithm) <= 64 * 2**20


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_tiled_results_lie_in_memory_as_the_layout_does(layout: str) -> None:
    extents = {"N": 3, "C": 4, "H": 500, "W": 500}
    x = np.ones([extents[letter] for letter in layout], dtype=np.float32)
    w = np.ones((8, 4, 3, 3), dtype=np.float32)
    with only("im2col") as ran:
        y = pc.conv2d(x, w, layout=layout, kernel_layout="OIHW", algorithm="im2col")
    assert len(ran) > 1
    assert y.flags.c_contiguous


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["direct", "im2col", "depthwise", "fft"])
def test_groups_apart_are_groups_together(algorithm: str, layout: str) -> None:
    """Some groups of channels at a time, each stretch with a kernel of its own, and rows of them besides."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 40, 24, 24)), rng.standard_normal((40, 1, 5, 5))
    if layout == "NHWC":
        x, w = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0)
    bias = rng.standard_normal(40)
    plan = pc.plan(x, w, layout=layout, groups=40, padding=2, algorithm=algorithm)
    expected = plan(x, w, bias)
    for tile in (tiling.Tile(1, 24, 16), tiling.Tile(2, 8, 32), tiling.Tile(1, 7, 20)):
        for workers in (1, 2):
            laid = road(plan.call, plan.chosen.algorithm, tile, workers)
            np.testing.assert_allclose(laid(x, *laid.prepare(w, bias)), expected, rtol=0, atol=1e-12)


def test_an_image_with_many_channels_is_shared_by_groups() -> None:
    """One image that one block holds, to be cast: two threads take half the channels each."""
    x, w = np.ones((1, 56, 56, 128), dtype="float16"), np.ones((31, 31, 1, 128), dtype="float16")
    plan = pc.plan(x, w, layout="NHWC", groups=128, padding=15, workers=2, algorithm=pc.FFT((72, 72), fused=True))
    assert plan.chosen.tile == tiling.Tile(1, 56, 64)
    assert plan.chosen.workers == 2
    assert len(plan.prepare(w).kernel) == 2
