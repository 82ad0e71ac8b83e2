"""CUDA's kernels: what they compute, run by the processor; how they are launched; that a GPU's compiler takes them."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import on_cpu
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from tolerance import FACTOR

import polyconv as pc
from polyconv import arrays
from polyconv.algorithms import implicit_gemm, strips
from polyconv.cuda import kernels

FOLDER = Path(kernels.__file__).parent
needs_compiler = pytest.mark.skipif(not on_cpu.COMPILER, reason="no g++ on this machine")


@pytest.fixture
def launched() -> Iterator[list[on_cpu.Launch]]:
    """NumPy's arrays taken for CuPy's, and what is launched meanwhile."""
    if not on_cpu.COMPILER:
        pytest.skip("no g++ on this machine")
    with on_cpu.stand_in(), on_cpu.watched() as launches:
        yield launches


def whole(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Small whole numbers, whose sums are exact."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def by_definition(x: np.ndarray, w: np.ndarray, **keywords: Any) -> np.ndarray:
    """The result in integers, by an algorithm that has nothing compiled."""
    return pc.conv(x.astype("int64"), w.astype("int64"), algorithm="tensordot", **keywords)


# -- every block that threads may make -----------------------------------------------------------------------

# How many filters there are chooses the columns of a block, and how many outputs its rows.
BLOCKS = {
    ("float32", 3, 9): (64, 16),
    ("float32", 20, 9): (64, 32),
    ("float32", 40, 9): (64, 64),
    ("float32", 100, 9): (64, 128),
    ("float32", 3, 130): (128, 16),
    ("float32", 20, 130): (128, 32),
    ("float32", 40, 130): (128, 64),
    ("float32", 100, 130): (128, 128),
    ("float64", 3, 9): (64, 64),
    ("float64", 3, 130): (128, 64),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("dtype", "filters", "size"), BLOCKS)
def test_every_block_of_implicit_gemm(
    dtype: str, filters: int, size: int, layout: str, launched: list[on_cpu.Launch]
) -> None:
    """Channels that come several at once and that do not; depths that fill whole slabs and that do not."""
    for channels in (4, 3):
        x, w = whole(1, channels, size, size, dtype=dtype), whole(filters, channels, 2, 1, dtype=dtype)
        if layout == "NHWC":
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        keywords = {"layout": layout, "kernel_layout": "OIHW", "padding": ((1, 0), (0, 2)), "stride": (1, 1)}
        launched.clear()
        y = pc.conv(x, w, algorithm="implicit_gemm", **keywords)
        np.testing.assert_array_equal(y, by_definition(x, w, **keywords))
        (launch,) = launched
        rows, columns = (launch.constants[name] for name in ("ROWS", "COLUMNS"))
        assert (int(rows), int(columns)) == BLOCKS[dtype, filters, size]
        several = layout == "NHWC" and channels == 4
        assert int(launch.constants["VECTOR"]) == (16 // x.itemsize if several else 1)


@pytest.mark.parametrize("begin", [0, 1])
def test_channels_are_fetched_together_only_where_they_lie_so(begin: int, launched: list[on_cpu.Launch]) -> None:
    """An image that begins between two fetches, and one whose rows do."""
    room = arrays.aligned((2 * 6 * 7 * 4 + 8,), "float32")
    room[:] = whole(room.size)
    x, w = room[begin : begin + 2 * 6 * 7 * 4].reshape(2, 6, 7, 4), whole(3, 3, 4, 5)
    y = pc.conv(x, w, layout="NHWC", algorithm="implicit_gemm")
    np.testing.assert_array_equal(y, by_definition(x, w, layout="NHWC"))
    assert [launch.constants["VECTOR"] for launch in launched] == ["1" if begin else "4"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outputs_are_stored_together_only_where_they_lie_so(dtype: str, launched: list[on_cpu.Launch]) -> None:
    """Of planes with as many outputs as divide into such pieces, if all of them begin at a multiple of one."""
    most = 16 // np.dtype(dtype).itemsize
    for size, pieces in (((6, 6), 4), ((5, 6), 2), ((5, 7), 1), ((20, 21), 4), ((8,), 4), ((2, 3, 4), 4)):
        kernel = (1,) * len(size)
        x, w = whole(3, 5, *size, dtype=dtype), whole(19, 5, *kernel, dtype=dtype)
        launched.clear()
        y = pc.conv(x, w, algorithm="implicit_gemm")
        np.testing.assert_array_equal(y, by_definition(x, w))
        assert [launch.constants["STORE_ROWS"] for launch in launched] == [str(min(pieces, most))]
    steps = (5 * 36, 5 * 36, 36, 6, 1)
    for begin, apart, expected in (
        (0, steps, 2),
        (1, steps, 1),
        (0, (*steps[:2], 37, 6, 1), 1),
        (0, (*steps[:3], 7, 1), 1),
    ):
        y = arrays.aligned((2000,), "float64")[begin:]
        plane = kernels.planes((1, 1, 5, 6, 6), apart)
        assert kernels.together(y, *plane, 3, 2) == expected


STORED = {
    "float16": "Half",
    "uint8": "unsigned char",
    "int16": "signed short",
    "bool": "unsigned char",
    "float64": "double",
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("stored", STORED)
def test_images_are_read_as_they_are_stored(stored: str, layout: str, launched: list[on_cpu.Launch]) -> None:
    """Cast by the kernels, pixel by pixel, and a result in half precision as well: no cast copy of either is made."""
    x, w = (
        np.abs(whole(2, 8, 9, 10)).astype(stored),
        whole(5, 8, 3, 3, dtype="float16" if stored == "float16" else "float32"),
    )
    if layout == "NHWC":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    dtype = "float32" if stored == "float64" else None
    keywords: dict[str, Any] = {"layout": layout, "kernel_layout": "OIHW", "padding": 1}
    expected = by_definition(x, w, **keywords)
    for algorithm in ("direct", "implicit_gemm", pc.Winograd(2, fused=True)):
        launched.clear()
        y = pc.conv(x, w, algorithm=algorithm, dtype=dtype, **keywords)
        assert y.dtype == ("float16" if stored == "float16" else "float32")
        np.testing.assert_allclose(y, expected, atol=1e-3 * np.max(np.abs(expected)))
        assert launched[0].constants["X"] == STORED[stored]
        assert launched[0].constants["T"] == "float"
        assert launched[-1].constants["Y"] == ("Half" if stored == "float16" else "float")
        if layout == "NHWC" and algorithm == "implicit_gemm":
            assert int(launched[0].constants["VECTOR"]) == min(16 // x.itemsize, 8)


def test_a_bias_is_added_before_the_one_rounding(launched: list[on_cpu.Launch]) -> None:
    """2048 + 1 is no number in half precision, and 2048 + 1 + 1 is."""
    x, w, bias = np.full((1, 1, 1, 1), 2048, "float16"), np.ones((1, 1, 1, 1), "float16"), np.full(1, 1, "float16")
    x, w = np.concatenate([x, x * 0 + 1], axis=1), np.concatenate([w, w], axis=1)
    for algorithm in ("direct", "implicit_gemm"):
        assert pc.conv2d(x, w, bias, algorithm=algorithm).ravel() == [2050]


STRIPS = {
    # taps along the strip, stride, dilation, filters of a group, groups -> filters of a thread, and outputs of a strip,
    # NCHW and NHWC, as for an image with work for all of a GPU, and for a small one
    (3, 1, 1, 1, 5): (1, {"NCHW": 8, "NHWC": 4}, 4),
    (3, 2, 1, 1, 8): (1, {"NCHW": 4, "NHWC": 4}, 4),
    (3, 2, 1, 2, 5): (2, {"NCHW": 4, "NHWC": 4}, 4),
    (5, 1, 2, 3, 1): (3, {"NCHW": 8, "NHWC": 8}, 4),
    (9, 1, 1, 1, 4): (1, {"NCHW": 8, "NHWC": 8}, 4),
    (9, 1, 1, 1, 1): (1, {"NCHW": 8, "NHWC": 8}, 4),
    (9, 3, 1, 7, 2): (7, {"NCHW": 2, "NHWC": 2}, 2),
    (2, 1, 3, 20, 1): (10, {"NCHW": 4, "NHWC": 4}, 4),
    (2, 1, 1, 16, 1): (16, {"NCHW": 4, "NHWC": 4}, 4),
    (2, 7, 1, 3, 1): (3, {"NCHW": 2, "NHWC": 2}, 2),  # outputs that share no pixels
    (2, 1, 13, 1, 1): (1, {"NCHW": 2, "NHWC": 2}, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("taps", "stride", "dilation", "filters", "groups"), STRIPS)
def test_every_strip_of_direct(
    taps: int, stride: int, dilation: int, filters: int, groups: int, layout: str, dtype: str,
    launched: list[on_cpu.Launch], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Strips of one group and of several at once, filters stored one by one and together."""
    several, strip, short = STRIPS[taps, stride, dilation, filters, groups]
    last = layout == "NHWC"
    for channels, busy in ((1, 1), (2, 1), (1, 2**15)):
        monkeypatch.setattr(strips, "_BUSY", busy)
        x = whole(2, groups * channels, 14, 15, dtype=dtype)
        w = whole(groups * filters, channels, taps, taps, dtype=dtype)
        keywords = {"layout": layout, "kernel_layout": "OIHW", "padding": 1, "stride": stride, "dilation": dilation}
        keywords["groups"] = groups
        if last:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        launched.clear()
        y = pc.conv(x, w, algorithm="direct", **keywords)
        np.testing.assert_array_equal(y, by_definition(x, w, **keywords))
        (launch,) = launched
        constants = {name: int(value) for name, value in launch.constants.items() if value.isdigit()}
        if dtype == "float32":
            assert constants["FILTERS"] == several
            assert constants["STRIP"] == (short if busy > 1 else strip[layout])
        widest = 16 // x.itemsize
        assert launch.constants["GROUPS_FASTEST"] == str(last and groups > 1).lower()
        alone = busy > 1 or not last or filters > 1 or channels > 1
        assert constants["VECTOR"] == (1 if alone else math.gcd(groups, widest))
        together = math.gcd(constants["FILTERS"], widest)
        assert constants["STORE"] == (together if last and not filters * groups % together else 1)


def test_groups_are_moved_together_only_where_they_lie_so(
    launched: list[on_cpu.Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that begins between two moves, and the channels of a wider one."""
    monkeypatch.setattr(strips, "_BUSY", 1)
    room = arrays.aligned((2 * 6 * 7 * 12 + 8,), "float32")
    room[:] = whole(room.size)
    wide, w = room[: 2 * 6 * 7 * 12].reshape(2, 6, 7, 12), whole(3, 3, 1, 8)
    whole_one = room[1 : 1 + 2 * 6 * 7 * 8].reshape(2, 6, 7, 8)
    for x, vector in ((wide[..., :8], "4"), (wide[..., 1:9], "1"), (whole_one, "1"), (wide[..., :2], "2")):
        launched.clear()
        groups = x.shape[-1]
        y = pc.conv(x, w[..., :groups], layout="NHWC", groups=groups, algorithm="direct")
        np.testing.assert_array_equal(y, by_definition(x, w[..., :groups], layout="NHWC", groups=groups))
        assert [launch.constants["VECTOR"] for launch in launched] == [vector]
    kernel = room[1 : 1 + 72].reshape(3, 3, 1, 8)  # which begins between two packs of weights
    for weights in (kernel, w):
        x = np.ascontiguousarray(wide[..., :8])
        y = pc.conv(x, weights, layout="NHWC", groups=8, algorithm="direct")
        np.testing.assert_array_equal(y, by_definition(x, weights, layout="NHWC", groups=8))


def test_pixels_that_steps_of_32_bits_reach_from_a_corner_that_they_do_not(launched: list[on_cpu.Launch]) -> None:
    """A view with two pixels in each of four lines, half a billion elements apart, of which few are ever touched."""
    step = 2**29 - 64
    try:
        room = np.zeros(3 * step + 16, "float32")
    except MemoryError:
        pytest.skip("no address space for it")
    x = np.lib.stride_tricks.as_strided(room, (1, 4, 8, 2), (16 * step, 4 * step, 8, 4))
    x[...] = whole(1, 4, 8, 2)
    for groups in (1, 2):
        w = whole(2, 2 // groups, 3, 3)
        keywords = {"layout": "NHWC", "kernel_layout": "OIHW", "padding": ((6, 6), (1, 1)), "dilation": (6, 1)}
        y = pc.conv(x, w, groups=groups, algorithm="direct", **keywords)
        expected = by_definition(np.ascontiguousarray(x), w, groups=groups, **keywords)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_a_nan_stays_in_its_windows(algorithm: str, launched: list[on_cpu.Launch]) -> None:
    """Also where products that fill up a slab, or outputs that fill up a strip, meet pixels."""
    for layout in ("NCHW", "NHWC"):
        x, w = whole(1, 3, 9, 10), whole(5, 3, 3, 3)
        x[0, :, -1, -1] = np.nan
        seen = np.zeros((9, 10), dtype=bool)
        seen[-2:, -2:] = True
        if layout == "NHWC":
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y = pc.conv(x, w, layout=layout, kernel_layout="OIHW", padding=1, algorithm=algorithm, accuracy="strict")
        found = np.isnan(np.moveaxis(y, -1, 1) if layout == "NHWC" else y)
        np.testing.assert_array_equal(found, np.broadcast_to(seen, found.shape))


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm", "winograd"])
def test_kernels_keep_to_their_arrays(algorithm: str, launched: list[on_cpu.Launch]) -> None:
    """Neither is anything written beside the result, nor does anything beside the image reach it."""
    record: Any = pc.Winograd(2, fused=True) if algorithm == "winograd" else algorithm
    for layout, groups in product(("NCHW", "NHWC"), (1, 3)):
        shape = (2, 6, 7, 9) if layout == "NCHW" else (2, 7, 9, 6)
        image = np.full(tuple(n + 4 for n in shape), np.nan, dtype="float32")
        x = image[(slice(2, -2),) * 4]
        x[...] = whole(*shape)
        w = whole(9, 6 // groups, 3, 3)
        keywords = {"layout": layout, "kernel_layout": "OIHW", "padding": 2, "groups": groups}
        plan = pc.plan(x, w, algorithm=record, **keywords)
        p, written = plan.call.problem, plan.chosen.algorithm.write
        assert written is not None
        room = np.full(tuple(n + 4 for n in p.result_shape), -1234.5, dtype="float32")
        y, ready = room[(slice(2, -2),) * 5], plan.prepare(w)
        given = x.reshape(2, groups, 6 // groups, 7, 9) if layout == "NCHW" else None
        if given is None:
            given = x.transpose(0, 3, 1, 2).reshape(2, groups, 6 // groups, 7, 9)
        written(given, ready.kernel, p, arrays._NUMPY_NAMESPACE, y)
        expected = by_definition(np.ascontiguousarray(x), w, **keywords)
        expected = expected if layout == "NCHW" else expected.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=0.02)
        y[...] = -1234.5
        np.testing.assert_array_equal(room, -1234.5)


# -- Winograd's transforms -----------------------------------------------------------------------------------


def test_transforms_of_random_problems(launched: list[on_cpu.Launch]) -> None:
    """Any layout, padding, dilation and grouping that the kernels take, of one to three axes."""
    seen = set()

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case: Case = data.draw(cases(dtypes=("float32", "float64"), max_terms=400))
        keywords = {**case.keywords, "stride": 1}
        canonical = {**case.canonical, "stride": (1,) * len(case.canonical["stride"])}
        if case.keywords["padding"] in ("same", "same_upper", "same_lower"):
            keywords["padding"] = canonical["padding"]
        case = dataclasses.replace(case, keywords=keywords, canonical=canonical)
        m = 2 if len(case.axes) == 3 else data.draw(st.sampled_from([2, 3, 4]))
        fused = pc.Winograd(m, fused=True)
        if math.prod(m + r - 1 if r > 1 else 1 for r, _, _ in case.axes) > 64 or case.pointwise:
            with pytest.raises(ValueError, match=r"nothing to save|at most 64 points"):
                pc.plan(case.x, case.w, algorithm=fused, **keywords)
            return
        plan = pc.plan(case.x, case.w, algorithm=fused, **keywords)
        launched.clear()
        y = plan(case.x, case.w, case.bias)
        if plan.call.problem.macs:
            assert [launch.name for launch in launched[:2]] == ["image_to_points", "products_to_result"]
        expected = case.expected()
        terms = plan.call.problem.channels * plan.call.problem.taps
        largest = np.max(np.abs(case.x), initial=0) * np.max(np.abs(case.w), initial=0)
        allowed = (FACTOR["winograd"] * plan.chosen.error + 4 * np.finfo(y.dtype).eps) * terms * largest
        beside = np.abs(expected) * 4 * np.finfo(y.dtype).eps
        assert np.all(np.abs(y - expected) <= allowed + beside)
        seen.add(plan.call.problem.ndim)

    check()
    assert seen == {1, 2, 3}


def test_fused_winograd_refuses_what_its_kernels_do_not_take(launched: list[on_cpu.Launch]) -> None:
    def refused(x: tuple[int, ...], w: tuple[int, ...], m: int, dtype: str = "float32", **keywords: Any) -> str:
        with pytest.raises(ValueError, match="cannot run this problem") as caught:
            pc.conv(whole(*x, dtype=dtype), whole(*w, dtype=dtype), algorithm=pc.Winograd(m, fused=True), **keywords)
        return str(caught.value)

    assert "takes no strides" in refused((1, 1, 9, 9), (1, 1, 3, 3), 2, stride=2)
    assert "at most 64 points of a block, and here there are 100" in refused((1, 1, 9, 9), (1, 1, 3, 3), 8)
    assert "single and double precision, not for int64" in refused((1, 1, 9, 9), (1, 1, 3, 3), 2, dtype="int32")


# -- what is launched ----------------------------------------------------------------------------------------


def test_one_launch_serves_a_whole_batch(launched: list[on_cpu.Launch]) -> None:
    x, w = whole(4, 9, 9, 4), whole(3, 3, 4, 8)
    for algorithm, number in (("direct", 1), ("implicit_gemm", 1), (pc.Winograd(4, fused=True), 2)):
        ready = pc.plan(x, w, layout="NHWC", padding="same", algorithm=algorithm).prepare(w)
        launched.clear()
        ready(x)
        assert len(launched) == number


def test_sources_are_compiled_once_for_equal_constants(launched: list[on_cpu.Launch]) -> None:
    """Other sizes, batches and paddings are the same code."""
    w = whole(7, 3, 5, 3)
    for shape, padding in (((1, 3, 20, 21), 0), ((3, 3, 9, 40), 1)):
        pc.conv(whole(*shape), w, padding=padding, algorithm="implicit_gemm")
    assert len({launch.code for launch in launched}) == 1


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_too_large_for_32_bits(algorithm: str) -> None:
    target = dataclasses.replace(pc.plan(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))).target, no_cuda=None)
    row = {"direct": strips.STRIPS, "implicit_gemm": implicit_gemm.IMPLICIT_GEMM}[algorithm]
    small = pc.plan(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))).call.problem
    assert row.reject(small, target) is None
    for large in ({"size": (2**16, 2**15)}, {"batch": 2**31}):
        reason = row.reject(dataclasses.replace(small, **large), target)
        assert reason == f"{algorithm} counts up to {2**31} outputs, and elements of an image"
    if algorithm == "implicit_gemm":
        for large in ({"groups": 70000}, {"size": (2**30, 1), "kernel": (1, 1)}):
            assert "takes at most 65535 groups" in str(row.reject(dataclasses.replace(small, **large), target))


def test_a_view_of_a_huge_array_is_copied() -> None:
    apart = np.lib.stride_tricks.as_strided(np.zeros(2), (1, 1, 1, 1, 1), (4, 4, 4, 4, 4))
    assert kernels.near(apart)[0] is apart
    far = np.lib.stride_tricks.as_strided(np.zeros(1), (1, 1, 1, 2, 1), (8, 8, 8, 0, 8))
    assert kernels.near(far)[0] is far


# -- that a GPU's compiler takes them ------------------------------------------------------------------------

NVCC = shutil.which("nvcc")


DTYPES = ("float32", "float64", "int64")


@lru_cache(maxsize=1)
def every_source() -> dict[str, str]:
    """Sources with the constants that plans give them, and one kernel of each."""
    layers: list[Any] = [((1, 8, 40, 41), (n, 8, 3, 3), dtype) for n in (4, 20, 40, 200) for dtype in DTYPES]
    layers += [((1, 4, 9, 10, 11), (4, 4, 3, 3, 3), "float32"), ((1, 2, 300), (2, 2, 31), "float32")]
    layers += [((1, 1, 9999), (1, 1, 9), "float32")]  # with a dilation of a thousand
    with on_cpu.stand_in(), on_cpu.watched(run=False) as launches, np.errstate(all="ignore"):
        for (shape, kernel, dtype), last in product(layers, (False, True)):
            space = "DHW"[5 - len(shape) :]
            x, w = np.ones(shape, dtype), np.ones(kernel, dtype)
            if last:
                x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            keywords: dict[str, Any] = {"layout": f"N{space}C" if last else f"NC{space}", "kernel_layout": f"OI{space}"}
            algorithms: list[Any] = ["direct", "implicit_gemm"]
            if kernel == (40, 8, 3, 3) and dtype == "float32":  # halves, too
                for algorithm in (*algorithms, pc.Winograd(4, fused=True)):
                    pc.conv(x.astype("float16"), w.astype("float16"), algorithm=algorithm, **keywords)
            if "float" in dtype and len(shape) == 4:
                algorithms += [pc.Winograd(m, fused=True) for m in (2, 4, 6)]
            if shape[-1] == 9999:
                keywords["dilation"] = 1000
            for algorithm in algorithms:
                pc.conv(x, w, algorithm=algorithm, **keywords)
    return {launch.code: launch.name for launch in launches}


@pytest.mark.skipif(NVCC is None, reason="no CUDA compiler on this machine")
def test_the_compiler_takes_every_kernel_and_spills_nothing(tmp_path: Path) -> None:
    """For the oldest and the newest kind of GPU that the toolkit knows, with no warning, all sums in registers."""
    sources = every_source()
    assert {*sources.values()} == {"implicit_gemm", "direct", "products_to_result"}

    def compiled(number: int, code: str) -> str:
        file = tmp_path / f"kernel-{number}.cu"
        file.write_text(code)
        command = [str(NVCC), "-std=c++17", "-arch=sm_90", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v"]
        command += ["-o", str(file.with_suffix(".cubin")), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stderr

    with ThreadPoolExecutor(2) as pool:
        logs = list(pool.map(compiled, range(len(sources)), sources))
    for name, log in zip(sources.values(), logs, strict=True):
        spilled = [*map(int, re.findall(r"(\d+) bytes spill", log))]
        assert spilled, log
        assert not any(spilled), f"{name}\n{log}"
        assert not any(map(int, re.findall(r"(\d+) bytes stack frame", log))), f"{name}\n{log}"
        assert max(map(int, re.findall(r"(\d+) bytes smem", log)), default=0) <= 48 * 1024


def constants_of(code: str) -> tuple[str, ...]:
    """The types of a source, and how it lies in memory."""
    of = on_cpu.Launch(code, "", (), ()).constants
    return tuple(of.get(name, "") for name in ("X", "T", "ALONG_ROWS", "GROUPS_FASTEST", "CHANNELS_LAST"))


def nvrtc() -> ctypes.CDLL | None:
    """The compiler that CuPy uses, from NVIDIA's package, which needs no GPU."""
    try:
        files_of = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    names = [str(file.locate()) for file in files_of if re.match(r"libnvrtc\.so\.\d+$", file.name)]
    return ctypes.CDLL(names[0]) if names else None


NVRTC = nvrtc()


@pytest.mark.skipif(NVRTC is None, reason="no nvidia-cuda-nvrtc on this machine")
def test_the_compiler_of_cupy_takes_every_kernel() -> None:
    """As RawKernel hands it a source, for the oldest GPU that it knows, nothing to warn of and all in registers."""
    assert NVRTC is not None
    options = (ctypes.c_char_p * 3)(b"--std=c++17", b"--gpu-architecture=sm_75", b"--ptxas-options=-v")
    # One of each kernel, dtype and layout: nvcc sees the rest.
    sources = {(name, *constants_of(code)): code for code, name in every_source().items()}
    assert {name for name, *_ in sources} == {"implicit_gemm", "direct", "products_to_result"}
    for (name, *_), code in sources.items():
        program, length = ctypes.c_void_p(), ctypes.c_size_t()
        NVRTC.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None)
        failed = NVRTC.nvrtcCompileProgram(program, len(options), options)
        NVRTC.nvrtcGetProgramLogSize(program, ctypes.byref(length))
        log = ctypes.create_string_buffer(length.value)
        NVRTC.nvrtcGetProgramLog(program, log)
        NVRTC.nvrtcDestroyProgram(ctypes.byref(program))
        assert not failed, f"{name}\n{log.value.decode()}"
        said = log.value.decode()
        assert "warning" not in said.lower(), f"{name}\n{said}"
        away = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
        assert away, said
        assert all(bytes_ == ("0", "0", "0") for bytes_ in away), f"{name}\n{said}"


def test_every_file_is_known() -> None:
    """Each says what comes before its text, and names a kernel."""
    files = sorted(FOLDER.glob("*.cu"))
    assert [file.stem for file in files] == ["direct", "implicit_gemm", "winograd"]
    for file in files:
        text = file.read_text()
        assert "// Constants that come before this text:" in text
        assert 'extern "C" __global__' in text


def test_tables_are_functions_of_their_indices() -> None:
    text = kernels.source("winograd", (("TABLE", ((1.5, 2.0), (3.0, 4.0))), ("LENGTHS", (5, 6)), ("T", "float")))
    assert "constexpr double TABLE(int i0, int i1)" in text
    assert "{{1.5, 2.0}, {3.0, 4.0}}" in text
    assert "constexpr int LENGTHS(int i0)" in text
    assert "typedef float T;" in text


def test_the_processor_notices_a_missing_barrier() -> None:
    """The stand-in is worth something: a kernel that reads what another thread has yet to write gives another sum."""
    if not on_cpu.COMPILER:
        pytest.skip("no g++ on this machine")
    code = """extern "C" __global__ void turn(const float *x, float *y) {
        __shared__ float all[32];
        all[threadIdx.x] = x[threadIdx.x];
        BARRIER;
        y[threadIdx.x] = all[31 - threadIdx.x];
    }"""
    x, y = np.arange(32, dtype="float32"), np.zeros(32, dtype="float32")
    on_cpu.RawKernel(code.replace("BARRIER", "__syncthreads()"), "turn")((1,), (32,), (x, y))
    np.testing.assert_array_equal(y, x[::-1])
    on_cpu.RawKernel(code.replace("BARRIER", ""), "turn")((1,), (32,), (x, y))
    assert not np.array_equal(y, x[::-1])


def test_sums_that_run_over_wrap_around(launched: list[on_cpu.Launch]) -> None:
    x, w = np.full((1, 1, 3, 3), 2**62, dtype="int64"), np.full((1, 1, 2, 2), 3, dtype="int64")
    expected = np.full((1, 1, 2, 2), (4 * 3 * 2**62 + 2**63) % 2**64 - 2**63, dtype="int64")
    for algorithm in ("direct", "implicit_gemm"):
        np.testing.assert_array_equal(pc.conv(x, w, algorithm=algorithm), expected)


def test_auto_runs_a_kernel_of_ones_own(launched: list[on_cpu.Launch]) -> None:
    """With the rates of a GPU, a depthwise layer is direct, and one of 3x3 taps and many channels Winograd's."""
    with on_cpu.stand_in(on_cpu.H200):
        x, w = whole(2, 30, 30, 64), whole(3, 3, 1, 64)
        plan = pc.plan(x, w, layout="NHWC", groups=64, padding=1)
        assert plan.algorithm == "direct"
        np.testing.assert_array_equal(plan(x, w), by_definition(x, w, layout="NHWC", groups=64, padding=1))
        x, w = np.ones((64, 28, 28, 256), "float32"), np.ones((3, 3, 256, 256), "float32")
        plan = pc.plan(x, w, layout="NHWC", padding=1)
        assert (plan.algorithm, plan.chosen.algorithm.detail) == ("winograd", "m=4, fused")


def test_a_plan_says_what_the_gpu_is_and_whether_it_rounds() -> None:
    """CuPy rounds the products of tensordot when it is told to, and no batches of products."""
    x, w = np.ones((8, 30, 30, 64), "float32"), np.ones((3, 3, 64, 64), "float32")
    with on_cpu.stand_in(on_cpu.H200):
        plan = pc.plan(x, w, layout="NHWC", algorithm="tensordot", accuracy="strict")
        assert "(NVIDIA H200, compute capability 9.0, 141 GB)" in str(plan)
        assert "TF32" not in str(plan)
    with on_cpu.stand_in(on_cpu.H200._replace(rounds="CUPY_TF32")):
        rounded = pc.plan(x, w, layout="NHWC", algorithm="tensordot")
        assert "products in TF32, as asked" in str(rounded)
        assert rounded.chosen.error > 100 * plan.chosen.error
        with pytest.raises(ValueError, match="forbids matrix products in TF32, which CUPY_TF32 asks for"):
            pc.plan(x, w, layout="NHWC", algorithm="tensordot", accuracy="strict")
        strict = {row.name: row for row in pc.plan(x, w, layout="NHWC", accuracy="strict").candidates}
        assert [name for name, row in strict.items() if "TF32" in str(row.reason)] == ["tensordot", "einsum"]
        assert strict["implicit_gemm"].error == pytest.approx(plan.chosen.error)
        double = pc.plan(x.astype("float64"), w.astype("float64"), layout="NHWC", accuracy="strict")
        assert {row.name: row.reason for row in double.candidates}["tensordot"] is None


def test_devices_can_be_looked_up() -> None:
    """CuPy's own cannot: they are equal to others, and have no hash."""
    one = arrays.CudaDevice(1)
    assert {one: "here"}[arrays.CudaDevice(1)] == "here"
    assert (int(one), str(one)) == (1, "cuda:1")
    assert arrays.is_accelerator(one)

    class Unhashable:
        id = 3
        __hash__ = None  # type: ignore[assignment]

    with on_cpu.stand_in(), mock.patch("array_api_compat.device", return_value=Unhashable()):
        assert arrays.device(np.ones(3)) == arrays.CudaDevice(3)


def test_a_gpu_that_says_nothing_of_its_memory_is_planned_for() -> None:
    """As a driver of 0 Hz would have it: CuPy's runtime, played."""
    runtime = ModuleType("cupy.cuda.runtime")
    said = {"MemoryClockRate": 0, "GlobalMemoryBusWidth": 0, "ClockRate": 0}
    properties = {"name": b"Some", "major": 11, "minor": 0, "multiProcessorCount": 20, "totalGlobalMem": 10**10}
    runtime.__dict__.update({f"cudaDevAttr{name}": name for name in said})
    runtime.getDeviceProperties = lambda number: properties  # type: ignore[attr-defined]
    runtime.deviceGetAttribute = lambda name, number: said[name]  # type: ignore[attr-defined]
    cuda = ModuleType("cupy.cuda")
    cuda.runtime = runtime  # type: ignore[attr-defined]
    modules = {"cupy": ModuleType("cupy"), "cupy.cuda": cuda, "cupy.cuda.runtime": runtime}
    with mock.patch.dict(sys.modules, modules):
        gpu = arrays._cuda_device.__wrapped__(0)
    assert (gpu.name, gpu.capability, gpu.multiprocessors, gpu.rounds) == ("Some", (11, 0), 20, None)
    with on_cpu.stand_in(gpu):
        assert math.isfinite(pc.plan(np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3))).chosen.seconds)


def test_rates_follow_from_what_a_gpu_says_of_itself() -> None:
    """A card for pictures is slow in double precision, and one of half the size takes twice the time."""
    x, w = np.ones((64, 56, 56, 64), "float32"), np.ones((3, 3, 64, 64), "float32")

    def seconds(gpu: arrays.Accelerator, dtype: str) -> float:
        with on_cpu.stand_in(gpu):
            plan = pc.plan(x.astype(dtype), w.astype(dtype), layout="NHWC", algorithm="implicit_gemm")
            return plan.chosen.seconds

    half = on_cpu.H200._replace(multiprocessors=66, bandwidth=on_cpu.H200.bandwidth / 2)
    assert seconds(half, "float32") == pytest.approx(2 * seconds(on_cpu.H200, "float32"), rel=0.1)
    pictures = on_cpu.H200._replace(capability=(8, 9))
    assert seconds(pictures, "float64") > 10 * seconds(on_cpu.H200, "float64")


def test_memory_that_is_not_there_is_said_to_be_wanted_for_the_plan(launched: list[on_cpu.Launch]) -> None:
    def out_of_memory(x: Any, w: Any, problem: Any, xp: Any) -> Any:
        raise MemoryError("Out of memory allocating 1,024 bytes")

    row = dataclasses.replace(implicit_gemm.IMPLICIT_GEMM, name="greedy", run=out_of_memory, write=None)
    x, w = whole(2, 3, 9, 9), whole(4, 3, 3, 3)
    plan = pc.plan(x, w, algorithm=row)
    wanted = rf"1,024 bytes; greedy wants {plan.chosen.workspace} bytes beside image and result; max_workspace= asks"
    for call in (lambda: pc.conv2d(x, w, algorithm=row), lambda: plan.prepare(w)(x)):
        with pytest.raises(MemoryError, match=wanted):
            call()


def test_work_is_done_on_the_device_of_the_arrays() -> None:
    """Preparing a kernel and convolving alike, and not only where a plan is called."""
    entered = []

    @contextlib.contextmanager
    def at(device: Any) -> Iterator[None]:
        entered.append(device)
        yield

    if not on_cpu.COMPILER:
        pytest.skip("no g++ on this machine")
    with on_cpu.stand_in(within=at):
        x, w = whole(2, 3, 9, 9), whole(4, 3, 3, 3)
        ready = pc.plan(x, w).prepare(w)
        assert entered == ["cpu"]
        ready(x)
        pc.conv2d(x, w)
        assert entered == ["cpu"] * 4
