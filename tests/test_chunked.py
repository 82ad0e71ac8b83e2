"""Dask arrays: the same results whatever the chunks, lazily, in few tasks, under every scheduler."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from backends import FLOATS, ON_NUMPY, SIGNED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from tolerance import beyond_direct

import polyconv as pc
from polyconv import blocks
from polyconv.algorithms import ALGORITHMS
from polyconv.arrays import describe
from polyconv.planning import make_plan

da = pytest.importorskip("dask.array")
import dask  # noqa: E402
from dask.array.utils import assert_eq  # noqa: E402
from dask.highlevelgraph import HighLevelGraph  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _synchronous() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 10, shape)


def tasks(y: Any) -> dict[Any, Any]:
    """What the call itself adds to the graph."""
    return dict(y.__dask_graph__().layers[y.name])


# -- results -------------------------------------------------------------------------------------------------


@st.composite
def chunks(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Any cut of an array, most often in two or three along an axis, and now and then in single elements."""
    found = []
    for n in shape:
        cuts = draw(st.one_of(st.sets(st.integers(1, max(1, n - 1)), max_size=2), st.just(set(range(1, n)))))
        found.append(tuple(b - a for a, b in pairwise((0, *sorted(cut for cut in cuts if cut < n), n))))
    return tuple(found)


def chunked(draw: Any, a: np.ndarray | None, always: bool = False) -> Any:
    if a is None or not (always or draw(st.booleans())):
        return a
    return da.from_array(a, chunks=draw(chunks(a.shape)))


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_seven_chunkings_of_integers_are_exact(data: st.DataObject) -> None:
    """Every keyword, any algorithm that takes the case, kernel and bias in memory or in chunks of their own."""
    case: Case = data.draw(cases(dtypes=("bool", *SIGNED, "uint8"), max_terms=300))
    expected = case.expected().astype(np.int64)
    for _ in range(7):
        x, w, bias = (chunked(data.draw, a, i == 0) for i, a in enumerate((case.x, case.w, case.bias)))
        algorithm = data.draw(st.sampled_from(["auto", *ON_NUMPY]))
        try:
            y = pc.conv(x, w, bias, algorithm=algorithm, **case.keywords)
        except ValueError as error:
            assert f"algorithm='{algorithm}' cannot run this problem" in str(error)  # noqa: PT017
            y = pc.conv(x, w, bias, **case.keywords)
        assert y.dtype in (np.int64, np.uint64)
        np.testing.assert_array_equal(y.compute().astype(np.int64), expected)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_chunkings_of_floats_are_within_rounding(data: st.DataObject) -> None:
    case: Case = data.draw(cases(dtypes=(*FLOATS, "complex128"), max_terms=300))
    x, w, bias = (chunked(data.draw, a, i == 0) for i, a in enumerate((case.x, case.w, case.bias)))
    algorithm = data.draw(st.sampled_from(["auto", "im2col", "winograd", "fft"]))
    try:
        plan = pc.plan(x, w, algorithm=algorithm, **case.keywords)
    except ValueError:
        plan = pc.plan(x, w, **case.keywords)
    y = plan(x, w, bias)
    dtype = np.result_type(case.x.dtype, case.w.dtype)
    assert y.dtype == dtype
    bound = (4 if dtype.kind == "c" else 1) * case.terms * np.finfo(dtype).eps * case.magnitude()
    bound = bound + beyond_direct(plan.block, case.x, case.w)
    assert np.all(np.abs(y.compute() - case.expected()) <= bound)


@pytest.mark.parametrize("algorithm", ["auto", *ON_NUMPY])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_algorithm_by_name(algorithm: str, layout: str) -> None:
    last = layout == "NHWC"
    x, w = (integers(3, 20, 23, 6), integers(3, 3, 6, 5)) if last else (integers(3, 6, 20, 23), integers(5, 6, 3, 3))
    keywords: dict[str, Any] = {"layout": layout, "padding": "same", "algorithm": algorithm}
    if algorithm == "pointwise":
        w = w[:1, :1] if last else w[..., :1, :1]
    if algorithm == "depthwise":
        w, keywords["groups"] = (w[:, :, :1, :1].repeat(6, 3) if last else w[:1, :1].repeat(6, 0)), 6
    if algorithm in ("fft", "winograd"):
        x, w = x.astype("float64"), w.astype("float64")
    y = pc.conv2d(da.from_array(x, chunks=(2, 8, 8, 4)), w, **keywords)
    np.testing.assert_allclose(y.compute(), pc.conv2d(x, w, **keywords), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "complex64"])
def test_shape_dtype_chunks_and_meta(dtype: str) -> None:
    x = da.from_array(normal(4, 3, 20, 21).astype(dtype), chunks=(2, 3, 7, 8))
    w = normal(5, 3, 3, 3).astype(dtype)
    y = pc.conv2d(x, w, padding="same", stride=(1, 2))
    expected = pc.conv2d(x.compute(), w, padding="same", stride=(1, 2))
    assert y.chunks == ((2, 2), (5,), (7, 7, 6), (4, 4, 3))
    assert (y.shape, y.dtype, type(y._meta), y._meta.ndim) == (expected.shape, expected.dtype, np.ndarray, 4)
    assert_eq(y, expected, atol=1e-2 if dtype == "float16" else 1e-4)  # and every block has the shape that it says


def test_other_dimensions() -> None:
    x, w = integers(6, 50), integers(4, 6, 5)
    y = pc.conv1d(da.from_array(x[None], chunks=(1, 2, 13)), w, dilation=2, padding=3)
    np.testing.assert_array_equal(y, pc.conv1d(x[None], w, dilation=2, padding=3))
    v, k = integers(2, 9, 8, 7, 2), integers(3, 2, 3, 2, 4)
    y = pc.conv3d(da.from_array(v, chunks=(1, 4, 3, 7, 1)), k, layout="NDHWC", stride=(2, 1, 3))
    np.testing.assert_array_equal(y, pc.conv3d(v, k, layout="NDHWC", stride=(2, 1, 3)))
    image, blur = integers(30, 31), integers(5, 5)
    y = pc.conv(da.from_array(image, chunks=4), blur, layout="HW", padding="same", padding_mode="reflect")
    np.testing.assert_array_equal(y, pc.conv(image, blur, layout="HW", padding="same", padding_mode="reflect"))


@pytest.mark.parametrize("shape", [(0, 2, 9, 9), (3, 2, 0, 9)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    """xarray-spatial 3225: an empty image ends in an error there."""
    x, w = np.ones(shape), np.ones((4, 2, 1, 1))
    y = pc.conv2d(da.from_array(x, chunks=(2, 1, 5, 5)), w, padding=((0, 0), (1, 1)))
    assert_eq(y, pc.conv2d(x, w, padding=((0, 0), (1, 1))))


def test_margins_of_integers_are_integers() -> None:
    """xarray-spatial 3020, and Dask's own ``map_overlap``: a halo of NaN turns integers to garbage."""
    x = da.ones((1, 1, 12, 12), dtype="int32", chunks=(1, 1, 5, 5))
    y = pc.conv2d(x, np.ones((1, 1, 3, 3), dtype="int32"), padding=1).compute()
    assert y[0, 0, 0, 0] == 4
    assert y[0, 0, 5, 5] == 9


def test_float64_stays_float64() -> None:
    """xarray-spatial 1096 and 3618: double precision was cut down, and not on every backend."""
    x = da.from_array(np.full((1, 1, 8, 8), 1 + 2.0**-40), chunks=(1, 1, 3, 3))
    y = pc.conv2d(x, np.ones((1, 1, 1, 1))).compute()
    assert y.dtype == np.float64
    assert (y == 1 + 2.0**-40).all()


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge", "wrap"])
def test_margins_that_come_from_other_blocks(mode: str) -> None:
    """xarray-spatial 2730 and 3625: on some backends the boundary was not minded. Chunks smaller than the margin."""
    x, w = integers(1, 1, 11, 12), integers(1, 1, 7, 7)
    y = pc.conv2d(da.from_array(x, chunks=(1, 1, 2, 3)), w, padding=(6, 8), padding_mode=mode)
    said: dict[str, Any] = {
        "layout": "NCHW",
        "kernel_layout": "OIHW",
        "padding": ((6, 6), (8, 8)),
        "padding_mode": mode,
    }
    others = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "flip_kernel": False}
    np.testing.assert_array_equal(y, reference.convolve(x, w, None, **said, **others).astype("int64"))


def test_filters_keep_the_chunks_of_the_kernel() -> None:
    x, w = integers(2, 6, 9, 9), integers(10, 6, 3, 3)
    y = pc.conv2d(da.from_array(x, chunks=(1, 4, 9, 9)), da.from_array(w, chunks=(4, 3, 2, 3)))
    assert y.chunks[1] == (4, 4, 2)
    np.testing.assert_array_equal(y, pc.conv2d(x, w))


def test_groups_keep_together() -> None:
    """Chunks of filters are cut between groups, and read the channels of their own groups alone."""
    x, w, bias = integers(2, 6, 9, 9), integers(12, 2, 3, 3), integers(12)
    y = pc.conv2d(da.from_array(x, chunks=(2, 2, 9, 9)), da.from_array(w, chunks=(5, 2, 3, 3)), bias, groups=3)
    assert y.chunks[1] == (4, 4, 4)
    np.testing.assert_array_equal(y, pc.conv2d(x, w, bias, groups=3))
    (key,) = (key for key in tasks(y) if key[:2] == (y.name, 0) and key[2] == 1)
    assert {dependency[2] for dependency in tasks(y)[key].dependencies if len(dependency) == 5} == {1}


# -- the graph -----------------------------------------------------------------------------------------------


def forbidden(block: np.ndarray) -> np.ndarray:
    raise AssertionError("a block was computed")


def test_nothing_is_computed() -> None:
    x = da.ones((4, 3, 20, 20), chunks=(2, 3, 6, 6)).map_blocks(forbidden, dtype="float64", meta=np.empty((0,) * 4))
    w = da.ones((4, 3, 3, 3)).map_blocks(forbidden, dtype="float64", meta=np.empty((0,) * 4))
    y = pc.conv2d(x, w, padding="same")
    assert isinstance(y, da.Array)
    print(pc.plan(x, w), repr(pc.plan(x, w)))  # noqa: T201
    with pytest.raises(AssertionError, match="a block was computed"):
        y.compute()


@pytest.mark.parametrize("bias", [None, np.ones(16, dtype="float32")])
def test_chunks_of_the_batch_are_one_task_each(bias: np.ndarray | None) -> None:
    x = da.ones((40, 3, 32, 32), chunks=(8, 3, 32, 32), dtype="float32")
    y = pc.conv2d(x, normal(16, 3, 3, 3), bias, padding="same")
    assert set(tasks(y)) == {(y.name, i, 0, 0, 0) for i in range(5)}
    assert set(y.__dask_graph__().layers) - set(x.__dask_graph__().layers) == {y.name}


def test_a_large_kernel_is_one_item_more() -> None:
    x = da.ones((40, 64, 16, 16), chunks=(8, 64, 16, 16), dtype="float32")
    y = pc.conv2d(x, normal(64, 64, 3, 3))
    assert len(tasks(y)) == 6
    assert len(tasks(pc.conv2d(x, da.ones((64, 64, 3, 3), chunks=(16, 64, 3, 3))))) == 5 * 4 + 4


def test_a_block_and_its_halo() -> None:
    """Nine parts of an inner block, of which the middle is the image's own; no part is cut twice."""
    x = da.ones((1, 3, 40, 40), chunks=(1, 3, 10, 10), dtype="float32")
    y = pc.conv2d(x, normal(4, 3, 3, 3), padding="same")
    found = tasks(y)
    outputs = [key for key in found if key[0] == y.name]
    assert len(outputs) == 16
    assert len(found[(y.name, 0, 0, 1, 1)].dependencies) == 9
    assert (x.name, 0, 0, 1, 1) in found[(y.name, 0, 0, 1, 1)].dependencies
    assert len(found) - len(outputs) == 2 * 24 + 4 * 9  # two sides of each of 24 seams, four corners of 9 crossings
    assert {task.func.__name__ for key, task in found.items() if key[0] != y.name} == {"getitem"}


def test_tasks_grow_with_blocks_and_no_faster() -> None:
    def number(rows: int) -> int:
        x = da.ones((1, 1, rows * 10, 40), chunks=(1, 1, 10, 10), dtype="float32")
        return len(tasks(pc.conv2d(x, normal(1, 1, 3, 3), padding="same")))

    assert number(80) - number(40) == 2 * (number(40) - number(20)) == 4 * (number(20) - number(10))


def test_nothing_is_rechunked() -> None:
    x = da.ones((4, 6, 30, 30), chunks=(3, 2, 1, 30))
    y = pc.conv2d(x, np.ones((2, 6, 5, 5)), padding="same")
    assert y.chunks == ((3, 1), (2,), (1,) * 30, (30,))
    assert not any("rechunk" in str(key) for key in y.__dask_graph__())


def test_low_level_fusion_keeps_working() -> None:
    """From the source of a block to what is made of its result: one task."""
    x = da.random.default_rng(0).random((40, 3, 16, 16), chunks=(8, 3, 16, 16))
    y = pc.conv2d(x.map_blocks(np.sqrt), normal(4, 3, 3, 3, dtype="float64")).map_blocks(np.abs)
    (optimized,) = dask.optimize(y)
    work = [task for task in dict(optimized.__dask_graph__()).values() if type(task).__name__ == "Task"]
    assert len(work) == 5


def test_equal_calls_have_equal_names() -> None:
    x, w, bias = da.ones((4, 3, 9, 9), chunks=2), normal(4, 3, 3, 3), normal(4)
    first = pc.conv2d(x, w, bias).name
    assert pc.conv2d(x, w.copy(), bias.copy()).name == first
    keywords: tuple[dict[str, Any], ...] = (
        {"padding": 1}, {"flip_kernel": True}, {"algorithm": "taps"}, {"dtype": "float32"}, {"workers": 2},
    )  # fmt: skip
    others = [pc.conv2d(x, w, bias, **said) for said in keywords]
    others += [pc.conv2d(*arrays) for arrays in ((x + 1, w, bias), (x, w + 1, bias), (x, w, bias + 1), (x, w))]
    others += [pc.conv2d(x.rechunk(3), w, bias)]
    assert len({first, *(other.name for other in others)}) == 1 + len(others)


def test_names_are_the_same_in_another_process() -> None:
    script = textwrap.dedent("""
        import dask.array as da, numpy as np, polyconv as pc
        print(pc.conv2d(da.ones((4, 3, 9, 9)), np.ones((4, 3, 3, 3))).name)
    """)
    names = {
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout for _ in "ab"
    }
    assert len(names) == 1


# -- one plan, one kernel ------------------------------------------------------------------------------------


def test_a_kernel_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads come for it at once."""
    prepared: list[int] = []
    asked = next(row for row in ALGORITHMS if row.name == "im2col")

    def prepare(w: Any, problem: Any, xp: Any) -> Any:
        prepared.append(threading.get_ident())
        return w

    algorithm = dataclasses.replace(asked, name="counted", prepare=prepare, prepare_cost=asked.cost)
    x, w = normal(40, 3, 16, 16), normal(4, 3, 3, 3)
    y = pc.conv2d(da.from_array(x, chunks=(2, 3, 7, 7)), w, algorithm=algorithm)
    np.testing.assert_allclose(y.compute(scheduler="threads"), pc.conv2d(x, w), atol=1e-4)
    assert len(prepared) == 1


def test_one_algorithm_for_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the largest block, whatever a sliver at the end would have had."""
    seen: set[str] = set()
    laid = blocks.road

    def watched(call: Any, algorithm: Any, *rest: Any) -> Any:
        seen.add(f"{algorithm.name} {algorithm.detail}")
        return laid(call, algorithm, *rest)

    monkeypatch.setattr(blocks, "road", watched)
    x, w = normal(1, 16, 66, 65), normal(16, 16, 3, 3)
    X = da.from_array(x, chunks=(1, 16, 64, 64))
    plan = pc.plan(X, w)
    np.testing.assert_allclose(plan(X, w).compute(), pc.conv2d(x, w), atol=1e-3)
    assert seen == {f"{plan.algorithm} {plan.block.chosen.algorithm.detail}"}


def test_the_plan_of_the_largest_block() -> None:
    x = da.ones((40, 3, 100, 100), chunks=(8, 3, 60, 100), dtype="float32")
    w = normal(16, 3, 5, 5)
    plan = pc.plan(x, w, padding="same", layout="NCHW")
    assert plan.block.call.problem.batch == 8
    assert plan.block.call.problem.padded_size == (64, 104)
    assert plan.block.chosen.workers == 1
    assert "10 blocks" in str(plan)
    assert str(plan.block) in str(plan)
    assert plan.algorithm in repr(plan)
    np.testing.assert_array_equal(plan.prepare(w)(x), plan(x, w))


@pytest.mark.parametrize("size", [3, 91])  # a kernel that goes with every task, and one that the graph has once
def test_what_is_lazy_has_the_kernel_as_it_was(size: int) -> None:
    x = da.ones((1, 1, 64, 64), chunks=(1, 1, 32, 64))
    w, bias = np.ones((1, 1, size, size)), np.ones(1)
    plan = pc.plan(x, w, padding="same")
    lazy = [pc.conv2d(x, w, bias, padding="same"), plan(x, w, bias), plan.prepare(w, bias)(x)]
    expected = pc.conv2d(np.ones(x.shape), w, bias, padding="same")
    later = plan.prepare(w, bias)
    w[...], bias[...] = 0, 5
    for y in (*lazy, later(x)):
        assert_eq(y, expected)
    assert_eq(pc.conv2d(x, np.ones_like(w), np.ones(1), padding="same"), expected)
    assert_eq(pc.conv2d(x, w, bias, padding="same"), np.full(x.shape, 5.0))


def test_prepare_minds_the_kernel() -> None:
    plan = pc.plan(da.from_array(X), W)
    with pytest.raises(ValueError, match="w has shape"):
        plan.prepare(W[:1])
    with pytest.raises(ValueError, match="one value for each"):
        plan.prepare(W, BIAS[:1])


def test_a_graph_is_made_without_arithmetic_on_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = da.from_array(X, chunks=(1, 3, 9, 9)), pc.conv2d(X, W, padding=2)
    worst = np.finfo(X.dtype).max
    garbage = lambda shape, dtype=None, device=None: np.full(shape, worst, dtype)  # noqa: E731
    monkeypatch.setattr(describe(X, "x").xp, "empty", garbage)
    with np.errstate(all="raise"):
        pc.conv_vjp(x, W, da.from_array(dy), padding=2, padding_mode="reflect")


def test_workspace_is_limited_block_by_block() -> None:
    x = da.ones((16, 8, 64, 64), chunks=(8, 8, 64, 64), dtype="float32")
    w = normal(8, 8, 3, 3)
    plan = pc.plan(x, w, max_workspace=300_000, algorithm="im2col")
    assert plan.block.chosen.workspace <= 300_000
    np.testing.assert_allclose(plan(x, w), pc.conv2d(x.compute(), w), atol=1e-3)
    with pytest.raises(ValueError, match="max_workspace=10"):
        pc.conv2d(x, w, max_workspace=10, algorithm="im2col")


def test_blas_keeps_to_one_thread_in_a_task() -> None:
    from threadpoolctl import threadpool_info

    seen: list[set[int]] = []
    row = next(row for row in ALGORITHMS if row.name == "im2col")

    def run(*args: Any) -> Any:
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return row.run(*args)

    x = da.ones((8, 3, 32, 32), chunks=(2, 3, 32, 32))
    pc.conv2d(x, np.ones((4, 3, 3, 3)), algorithm=dataclasses.replace(row, run=run)).compute(scheduler="threads")
    assert seen == [{1}] * 4
    before = threading.active_count()
    pc.conv2d(x, np.ones((4, 3, 3, 3)), algorithm="direct").compute()
    assert threading.active_count() == before


def test_works_are_one_in_a_process() -> None:
    """What a task carries is unpickled to the one that is there."""
    plan = pc.plan(da.ones((4, 3, 9, 9), chunks=2), np.ones((4, 3, 3, 3)))
    y = plan(da.ones((4, 3, 9, 9), chunks=2), np.ones((4, 3, 3, 3)))
    work = tasks(y)[(y.name, 0, 0, 0, 0)].args[0]
    assert pickle.loads(pickle.dumps(work)) is work


# -- errors --------------------------------------------------------------------------------------------------


def test_chunks_of_unknown_sizes() -> None:
    x = da.ones((10, 3, 8, 8), chunks=(5, 3, 8, 8))
    unknown = x[da.ones(10, chunks=5) > 0]
    with pytest.raises(ValueError, match=r"x has chunks of unknown sizes .* call x\.compute_chunk_sizes\(\) first"):
        pc.conv2d(unknown, np.ones((2, 3, 3, 3)))
    unknown.compute_chunk_sizes()
    assert_eq(pc.conv2d(unknown, np.ones((2, 3, 3, 3))), pc.conv2d(np.ones((10, 3, 8, 8)), np.ones((2, 3, 3, 3))))


X, W, BIAS = np.ones((2, 3, 9, 9)), np.ones((4, 3, 3, 3)), np.ones(4)


def test_an_image_in_memory_and_a_kernel_in_chunks() -> None:
    with pytest.raises(TypeError, match=r"w is a Dask array and x is not; make x one, say by dask\.array\.from_array"):
        pc.conv2d(X, da.from_array(W))
    with pytest.raises(TypeError, match="bias is a Dask array, and the plan is for arrays in memory"):
        pc.conv2d(X, W, da.from_array(BIAS))
    with pytest.raises(TypeError, match="x is a Dask array, and the plan is for arrays in memory; make a plan for x"):
        pc.plan(X, W)(da.from_array(X), W)
    with pytest.raises(TypeError, match="x is a Dask array, and the plan is for arrays in memory; make a plan for x"):
        pc.plan(X, W).prepare(W)(da.from_array(X))


def test_a_plan_minds_the_chunks() -> None:
    plan = pc.plan(da.from_array(X, chunks=(1, 3, 9, 9)), W)
    with pytest.raises(ValueError, match="other chunks than the plan is for; make another plan"):
        plan(da.from_array(X, chunks=(2, 3, 9, 9)), W)
    with pytest.raises(ValueError, match="other chunks than the plan is for; make another plan"):
        plan(da.from_array(X, chunks=(1, 3, 9, 9)), da.from_array(W, chunks=(2, 3, 3, 3)))
    with pytest.raises(TypeError, match="x is no Dask array, and the plan is for one"):
        plan(X, W)


def test_the_usual_errors() -> None:
    x = da.from_array(X, chunks=(1, 3, 9, 9))
    with pytest.raises(ValueError, match="w takes 2 input channels, and x has 3"):
        pc.conv2d(x, np.ones((4, 2, 3, 3)))
    with pytest.raises(ValueError, match="bias has shape"):
        pc.conv2d(x, W, np.ones(5))
    with pytest.raises(TypeError, match="x has dtype object, which is not numeric"):
        pc.conv2d(x.astype(object), W)
    with pytest.raises(ValueError, match="measure=True runs the whole problem"):
        pc.plan(x, W, measure=True)


def test_an_error_names_its_block() -> None:
    row = next(row for row in ALGORITHMS if row.name == "im2col")

    def run(x: Any, *args: Any) -> Any:
        if x[0, 0, 0, 0, 0] == 7:
            raise ArithmeticError("seven is out of the question")
        return row.run(x, *args)

    x = np.ones((4, 1, 8, 8))
    x[2, 0, 4, 4] = 7
    y = pc.conv2d(
        da.from_array(x, chunks=(1, 1, 4, 4)), np.ones((1, 1, 1, 1)), algorithm=dataclasses.replace(row, run=run)
    )
    with pytest.raises(ArithmeticError, match="seven is out of the question") as caught:
        y.compute(scheduler="threads")
    assert caught.value.__notes__ == [f"in block (2, 0, 1, 1) of {y.name}-0, a convolution by polyconv"]


def test_an_error_upstream_is_the_callers_own() -> None:
    x = da.ones((4, 3, 9, 9), chunks=2).map_blocks(forbidden, meta=np.empty((0,) * 4))
    with pytest.raises(AssertionError, match="a block was computed") as caught:
        pc.conv2d(x, W).compute()
    assert not getattr(caught.value, "__notes__", [])


# -- company -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers(scheduler: str) -> None:
    x, w, bias = normal(6, 8, 20, 20), normal(64, 8, 6, 6), normal(64)
    X = da.from_array(x, chunks=(2, 8, 11, 20))
    for kernel in (w, da.from_array(w, chunks=(32, 8, 6, 6)), w[:4]):
        b = bias[: kernel.shape[0]]
        y = pc.conv2d(X, kernel, b, padding="same").compute(scheduler=scheduler, num_workers=2)
        expected = pc.conv2d(x, np.asarray(kernel), b, padding="same", algorithm="im2col")
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_annotations_reach_the_layer() -> None:
    with dask.annotate(priority=3, resources={"GPU": 1}):
        y = pc.conv2d(da.from_array(X, chunks=1), W)
    graph: HighLevelGraph = y.__dask_graph__()
    assert graph.layers[y.name].annotations == {"priority": 3, "resources": {"GPU": 1}}


def test_persist_store_and_blocks() -> None:
    x = da.from_array(X, chunks=(1, 3, 4, 5))
    y = pc.conv2d((x + 1).persist(), W, padding="same").persist()
    expected = pc.conv2d(X + 1, W, padding="same")
    assert_eq(y, expected)
    target = np.zeros_like(expected)
    da.store(y, target)
    np.testing.assert_array_equal(target, expected)
    assert_eq(y.blocks[1, 0, 2, 1], expected[1:, :, 8:, 5:])
    assert_eq(pc.conv2d(y, np.ones((2, 4, 3, 3))), pc.conv2d(expected, np.ones((2, 4, 3, 3))))
    assert_eq(y[:, 1:3, ::2].mean(axis=0), expected[:, 1:3, ::2].mean(axis=0))


def test_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    x = da.from_array(normal(8, 3, 20, 20), chunks=(2, 3, 10, 10))
    y = pc.conv2d(x, normal(4, 3, 3, 3), padding="same")
    y.to_zarr(str(tmp_path / "y.zarr"))
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "y.zarr"), mode="r")[:], y.compute())


PLANNED = """
import dask, numpy as np, dask.array as da, polyconv as pc
assert da.array_expr_enabled()
rng = np.random.default_rng(0)
x, w, b = rng.integers(-9, 9, (4, 6, 20, 17)), rng.integers(-9, 9, (8, 6, 3, 3)), rng.integers(-9, 9, 8)
X, W, B = da.from_array(x, chunks=(2, 3, 7, 6)), da.from_array(w, chunks=(3, 6, 3, 3)), da.from_array(b, chunks=3)
for kernel, bias in ((w, b), (W, b), (w, B), (W, B), (W, None)):
    for mode in ("constant", "reflect"):
        y = pc.conv2d(X, kernel, bias, padding=2, padding_mode=mode)
        expected = pc.conv2d(x, w, None if bias is None else b, padding=2, padding_mode=mode)
        assert type(y).__module__.startswith("dask.array._array_expr") and y.shape == expected.shape
        for scheduler in ("synchronous", "threads"):
            np.testing.assert_array_equal(y.compute(scheduler=scheduler), expected)
        total = (pc.conv2d(x + 1, w, None if bias is None else b) * 2).sum()
        assert (pc.conv2d(X + 1, kernel, bias) * 2).sum().compute() == total
        assert y.chunks == pc.conv2d(X, kernel, bias, padding=2, padding_mode=mode).chunks
batch = pc.conv2d(X.rechunk((1, 6, 20, 17)), w)
assert len([k for k in dict(batch.__dask_graph__()) if k[0].startswith("conv-")]) == 4
np.testing.assert_array_equal(batch.persist().compute(), pc.conv2d(x, w))
print("done")
"""


def test_where_dask_plans_queries() -> None:
    """``array.query-planning`` is read once, when Dask's arrays are first imported."""
    environment = {**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"}
    ran = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PLANNED], env=environment, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "done", ran.stderr


STREAMED = """
import resource
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import dask, dask.array as da, numpy as np
from threadpoolctl import threadpool_limits
import polyconv as pc

workers = 2

def dataset(blocks, images, side):
    def made(block_info=None):
        number = block_info[None]["chunk-location"][0]
        return np.random.default_rng(number).standard_normal((images, 3, side, side), dtype="float32")

    chunks, nothing = ((images,) * blocks, (3,), (side,), (side,)), np.empty((0,) * 4, "float32")
    x = da.map_blocks(made, chunks=chunks, dtype="float32", meta=nothing)
    return pc.conv2d(x, np.ones((3, 3, 3, 3), "float32"), padding="same", max_workspace=10**6, algorithm="im2col").max()

def memory(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(which))

def multiply(meet, a):
    meet.wait()
    for _ in range(20):
        a @ a

with dask.config.set(scheduler="threads", num_workers=workers):
    dataset(4, 1, 16).compute()  # imports and compiles
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:  # BLAS has memory for all who multiply at once
        meet, a = Barrier(workers), np.ones((512, 512), "float32")
        list(pool.map(lambda _: multiply(meet, a), range(workers)))
    block = 8 * 3 * 256 * 256 * 4
    budget = workers * 4 * block
    before = memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + budget,) * 2)  # what is asked beyond is refused
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forgets the most memory that there was
    blocks = 4 * budget // block + 1
    finite = np.isfinite(dataset(blocks, 8, 256).compute())
    print(finite, blocks * block / budget >= 4, (memory("VmHWM") - before) / budget)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's own account of memory")
def test_a_dataset_four_times_the_memory_streams_through() -> None:
    """Under a limit that the system keeps: at most four blocks for each worker, beside the interpreter."""
    ran = subprocess.run([sys.executable, "-c", STREAMED], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    finite, larger, share = ran.stdout.split()
    assert (finite, larger) == ("True", "True")
    assert float(share) <= 1


def test_plans_are_those_of_arrays_in_memory() -> None:
    """A block's plan is cached like any other."""
    make_plan.cache_clear()
    x = da.ones((8, 3, 9, 9), chunks=(2, 3, 9, 9))
    assert pc.plan(x, W).block is pc.plan(x, W).block


def test_describing_a_dask_array_needs_no_dask_of_polyconvs() -> None:
    script = textwrap.dedent("""
        import sys, numpy as np, polyconv as pc
        pc.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)))
        assert "dask" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("algorithm", ["im2col", "direct"])
def test_blocks_that_are_cut_into_tiles_and_blocks_that_are_not(algorithm: str) -> None:
    """Each takes the kernel as its own road wants it."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((9, 64, 64, 16)), rng.standard_normal((3, 3, 16, 8))
    chunks = da.from_array(x, chunks=((8, 1), 64, (60, 4), 16))
    y = pc.conv(chunks, w, layout="NHWC", padding=1, workers=2, algorithm=algorithm)
    expected = pc.conv(x, w, layout="NHWC", padding=1, algorithm="im2col")
    np.testing.assert_allclose(y.compute(), expected, rtol=0, atol=1e-11)
