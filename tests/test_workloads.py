"""The workloads that tutorials and questions about slow convolutions time, by every algorithm, against PyTorch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from backends import ON_NUMPY, Backend
from spy import only
from tolerance import beyond_direct

import polyconv as pc

torch = pytest.importorskip("torch")


@dataclass(frozen=True)
class Workload:
    """Images of shape ``(N, C, H, W)``, a kernel of shape ``(O, I, H, W)`` and the layout they are met in."""

    images: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    layout: str
    stride: int = 1
    with_bias: bool = False


WORKLOADS = {
    "photographs": Workload((8, 3, 150, 150), (16, 3, 3, 3), "NHWC"),
    "megapixels": Workload((3, 3, 1000, 1000), (3, 3, 3, 3), "NCHW"),
    "thumbnails": Workload((3, 3, 10, 10), (3, 3, 3, 3), "NCHW", stride=3),
    "digits": Workload((32, 3, 28, 28), (4, 3, 4, 4), "NHWC", with_bias=True),
    "features": Workload((100, 8, 32, 32), (16, 8, 3, 3), "NHWC"),
}

# What is too slow in full sees fewer and smaller images, (images, side): Python loops, and the largest workload
# where it has been met before.
CROPS = {
    ("naive", "photographs"): (1, 5),
    ("naive", "megapixels"): (1, 8),
    ("naive", "thumbnails"): (1, 10),
    ("naive", "digits"): (1, 5),
    ("naive", "features"): (1, 4),
    ("patch", "megapixels"): (3, 100),
}
REARRANGED_CROPS = {"megapixels": (3, 200)}  # in the layout that is not the workload's own

# None of them is pointwise or depthwise; `test_no_workload_is_left_out` says so.
ALGORITHMS = [name for name in ON_NUMPY if name not in ("pointwise", "depthwise")]
# With as long a stride as the kernel no two windows share a pixel, and Winograd's method has nothing to save.
PAIRS = [
    (name, algorithm)
    for name in WORKLOADS
    for algorithm in ALGORITHMS
    if (name, algorithm) != ("thumbnails", "winograd")
]

# The largest error allowed, in units of the largest output.
ALLOWED = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Data:
    """A workload's arrays in PyTorch's layouts, and PyTorch's result."""

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    expected: np.ndarray


@functools.lru_cache(maxsize=4)  # consecutive tests share a workload; the largest takes 150 MB in float64
def data(workload: Workload, dtype: str) -> Data:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(workload.images).astype(dtype)
    w = rng.standard_normal(workload.kernel).astype(dtype)
    bias = rng.standard_normal(workload.kernel[0]).astype(dtype) if workload.with_bias else None
    tensors = [None if a is None else torch.from_numpy(a) for a in (x, w, bias)]
    expected = torch.nn.functional.conv2d(*tensors, stride=workload.stride).numpy()
    return Data(x, w, bias, expected)


def cropped(algorithm: str, name: str, layout: str) -> Workload:
    workload = WORKLOADS[name]
    crop = CROPS.get((algorithm, name))
    if crop is None and layout != workload.layout:
        crop = REARRANGED_CROPS.get(name)
    if crop is None:
        return workload
    batch, side = crop
    return replace(workload, images=(batch, workload.images[1], side, side))


def arranged(a: np.ndarray, letters: str, layout: str) -> np.ndarray:
    """An array whose axes are spelled by ``letters``, laid out in memory in the order of ``layout``."""
    return np.ascontiguousarray(a.transpose([letters.index(letter) for letter in layout]))


def check(xp: Backend, algorithm: str, name: str, layout: str, dtype: str) -> None:
    """The named algorithm alone runs, and agrees with PyTorch to within :data:`ALLOWED`."""
    workload = cropped(algorithm, name, layout)
    known = data(workload, dtype)
    x = xp.asarray(arranged(known.x, "NCHW", layout))
    w = xp.asarray(arranged(known.w, "OIHW", "HWIO" if layout == "NHWC" else "OIHW"))
    bias = None if known.bias is None else xp.asarray(known.bias)
    with only(algorithm) as ran:
        y = xp.to_numpy(pc.conv2d(x, w, bias, layout=layout, stride=workload.stride, algorithm=algorithm))
    assert ran
    assert y.dtype == dtype
    expected = arranged(known.expected, "NCHW", layout)
    assert y.shape == expected.shape
    error, largest = np.max(np.abs(y - expected)), np.max(np.abs(expected))
    assert error < ALLOWED[dtype] * largest, f"off by {error} where outputs reach {largest}"
    plan = pc.plan(x, w, layout=layout, stride=workload.stride, algorithm=algorithm)
    if beyond := beyond_direct(plan, known.x, known.w):
        assert error <= beyond, f"off by {error} where {beyond} is predicted"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "algorithm"), PAIRS)
def test_numpy(name: str, dtype: str, layout: str, algorithm: str) -> None:
    check(Backend("numpy", np.asarray), algorithm, name, layout, dtype)


@pytest.mark.parametrize(("name", "algorithm"), [pair for pair in PAIRS if pair[0] in ("thumbnails", "digits")])
def test_every_library(library: Backend, name: str, algorithm: str) -> None:
    if library.lacks(algorithm):
        pytest.skip("compiled for other libraries' arrays")
    check(library, algorithm, name, WORKLOADS[name].layout, "float32")


def test_no_workload_is_left_out() -> None:
    x, w = np.empty((1, 3, 9, 9)), np.empty((4, 3, 3, 3))
    able = [candidate.name for candidate in pc.plan(x, w).candidates if candidate.reason is None]
    assert able == ALGORITHMS
    strided = {candidate.name: candidate.reason for candidate in pc.plan(x, w, stride=3).candidates}
    assert "nothing to save" in str(strided.pop("winograd"))
    assert [name for name, reason in strided.items() if reason is None] == [n for n in ALGORITHMS if n != "winograd"]
