"""On a GPU: every algorithm with every keyword, nothing waited for, the caller's stream and device, Dask's blocks.

What these show for CuPy's own arrays, other tests show without a GPU as far as may be: ``cuda-on-cpu`` among the
backends runs the kernels, array_api_strict's second device every place where arrays are made, and JAX's tracers that no
data is looked at on the way.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases
from tolerance import beyond_direct, within_rounding

import polyconv as pc

cupy = pytest.importorskip("cupy")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cupy.is_available(), reason="no GPU on this machine")]


@contextlib.contextmanager
def nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within this context nothing may wait for the GPU, nor copy from it."""
    import cupyx

    def never(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("an array was copied from the GPU")

    with contextlib.ExitStack() as within, monkeypatch.context() as patched:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is experimental, and says so as it is entered
            within.enter_context(cupyx.allow_synchronize(False))
        patched.setattr(cupy, "asnumpy", never)
        yield


def on_gpu(case: Case) -> list[Any]:
    return [None if a is None else cupy.asarray(a) for a in (case.x, case.w, case.bias)]


def test_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(cases(dtypes=("float32", "float64", "int16", "complex64"), max_terms=300))
    def check(case: Case) -> None:
        arrays = on_gpu(case)
        for row in pc.plan(*arrays[:2], **case.keywords).candidates:
            if row.reason is not None or row.name in ("naive", "patch"):
                continue
            plan = pc.plan(*arrays[:2], **case.keywords, algorithm=row.name)
            with nothing_comes_back(monkeypatch):
                y = plan(*arrays)
            found = cupy.asnumpy(y)
            if found.dtype.kind == "i":
                np.testing.assert_array_equal(found, case.expected().astype(found.dtype))
            else:
                within_rounding(case, found, row.name, found.dtype, beyond_direct(plan, case.x, case.w))

    check()


def test_the_work_is_put_on_the_callers_stream() -> None:
    """Behind what is there already: an image that is still being made when the call returns."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x, w = cupy.zeros((16, 64, 64, 64), "float32"), cupy.ones((3, 3, 64, 64), "float32")
        for _ in range(50):
            x += 0.5
        for algorithm in ("direct", "implicit_gemm", "im2col", pc.Winograd(4, fused=True)):
            y = pc.conv2d(x, w, layout="NHWC", algorithm=algorithm)
            stream.synchronize()
            np.testing.assert_allclose(cupy.asnumpy(y), 25 * 576, rtol=1e-4)


def test_blocks_of_dask_arrays() -> None:
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (6, 20, 21, 3)), rng.integers(-9, 9, (3, 3, 3, 4))
    chunked = da.from_array(x, chunks=(2, 7, 9, 3)).map_blocks(cupy.asarray)
    y = pc.conv2d(chunked, cupy.asarray(w), layout="NHWC", padding="same")
    assert isinstance(y._meta, cupy.ndarray)
    found = y.compute(scheduler="threads")
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(found), pc.conv2d(x, w, layout="NHWC", padding="same"))


def test_gradients() -> None:
    rng = np.random.default_rng(0)
    x, w, dy = (rng.integers(-9, 9, shape) for shape in ((2, 9, 9, 4), (3, 3, 4, 5), (2, 9, 9, 5)))
    expected = pc.conv_vjp(x, w, dy, layout="NHWC", padding="same")
    found = pc.conv_vjp(*map(cupy.asarray, (x, w, dy)), layout="NHWC", padding="same")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(ours), theirs)


def test_more_than_the_device_holds_is_refused_in_the_plans_words() -> None:
    pool = cupy.get_default_memory_pool()
    limit = pool.get_limit()
    pool.free_all_blocks()
    x, w = cupy.ones((4, 64, 64, 64), "float32"), cupy.ones((3, 3, 64, 64), "float32")
    try:
        pool.set_limit(size=pool.total_bytes() + 2**20)
        with pytest.raises(
            MemoryError, match=r"im2col wants .* bytes beside image and result; max_workspace= asks for"
        ):
            pc.conv2d(x, w, layout="NHWC", algorithm="im2col")
    finally:
        pool.set_limit(size=limit)


def test_a_plan_knows_the_device() -> None:
    x, w = cupy.ones((4, 8, 8, 8), "float32"), cupy.ones((3, 3, 8, 8), "float32")
    plan = pc.plan(x, w, layout="NHWC")
    properties = cupy.cuda.runtime.getDeviceProperties(x.device.id)
    assert plan.target.gpu is not None
    assert plan.target.gpu.memory == properties["totalGlobalMem"]
    assert "compute capability" in str(plan)
    assert plan.target.gpu.bandwidth > 1e10


@pytest.mark.skipif(not cupy.is_available() or cupy.cuda.runtime.getDeviceCount() < 2, reason="one GPU, or none")
def test_arrays_of_another_device() -> None:
    with cupy.cuda.Device(1):
        x, w = cupy.ones((2, 9, 9, 4), "float32"), cupy.ones((3, 3, 4, 5), "float32")
    y = pc.conv2d(x, w, layout="NHWC")
    assert y.device.id == 1
    np.testing.assert_array_equal(cupy.asnumpy(y), 36)
