"""The array libraries that the tests drive, each behind the same few functions."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import on_cpu

import polyconv as pc

FLOATS = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
COMPILED = ("direct", "implicit_gemm")  # for some libraries' arrays alone
ON_NUMPY = tuple(name for name in pc.algorithms() if name != "implicit_gemm")  # what NumPy's arrays have
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Backend:
    """One array library on one device.

    ``asarray`` takes a NumPy array there and ``to_numpy`` takes a result back; ``home`` says where an array is.
    ``dtypes`` are the names that the library has and can compute with; ``halves`` those
    of half precision. ``examples`` is how many random problems a test draws: fewer where each operation is slow.
    ``compiles`` are those of the algorithms in :data:`COMPILED` that it has, and ``within`` is what it works in.
    """

    name: str
    asarray: Callable[[np.ndarray], Any]
    to_numpy: Callable[[Any], np.ndarray] = np.asarray
    device: Callable[[Any], Any] = lambda x: None
    dtypes: tuple[str, ...] = ("bool", *SIGNED, *UNSIGNED, *FLOATS, *COMPLEX)
    halves: tuple[str, ...] = ()
    examples: int = 40
    compiles: tuple[str, ...] = ()
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    def home(self, x: Any) -> tuple[type, Any]:
        return type(x), self.device(x)

    def lacks(self, algorithm: str) -> bool:
        """Whether the algorithm is compiled, and not for these arrays."""
        return algorithm in COMPILED and algorithm not in self.compiles

    def __repr__(self) -> str:
        return self.name


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def reversed_view(x: np.ndarray) -> np.ndarray:
    """The same values seen through negative strides along every axis."""
    return np.flip(np.flip(x).copy())


def big_endian(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder(">"))


def fortran(x: np.ndarray) -> np.ndarray:
    return x.copy(order="F")


def sparse_view(x: np.ndarray) -> np.ndarray:
    """The same values as every second element of a larger array, along every axis."""
    wide = np.full(tuple(2 * n for n in x.shape), 99).astype(x.dtype)
    every_other = (slice(None, None, 2),) * x.ndim
    wide[every_other] = x
    return wide[every_other]


def _numpy_variants() -> list[Backend]:
    given = {"halves": ("float16",), "compiles": ("direct",)}
    return [
        Backend("numpy", np.asarray, examples=200, **given),
        Backend("numpy-read-only", read_only, **given),
        Backend("numpy-reversed", reversed_view, **given),
        Backend("numpy-big-endian", big_endian, **given),
        Backend("numpy-fortran", fortran, **given),
        Backend("numpy-sparse-view", sparse_view, **given),
    ]


def _cuda_on_cpu() -> list[Backend]:
    """NumPy's arrays taken for CuPy's, and CUDA's kernels run by the processor."""
    if not on_cpu.COMPILER:
        return []
    own = {"halves": ("float16",), "compiles": ("direct", "implicit_gemm"), "within": on_cpu.stand_in}
    return [Backend("cuda-on-cpu", np.asarray, examples=30, **own)]


def _array_api_strict() -> list[Backend]:
    import array_api_strict as strict

    # The strictest mode: nothing optional, nothing whose shape depends on data.
    strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=("fft",))
    cpu, other = strict.Device("CPU_DEVICE"), strict.Device("device1")
    return [
        Backend(
            f"array-api-strict-{name}",
            lambda x, device=device: strict.asarray(x, device=device),
            lambda y: np.asarray(y.to_device(cpu)),
            lambda x: x.device,
        )
        for name, device in (("cpu", cpu), ("device1", other))
    ]


def _torch() -> list[Backend]:
    import torch

    torch.set_num_threads(1)  # for arrays this small, threads of several test processes only wait for one another

    def to_torch(x: np.ndarray) -> Any:
        return torch.tensor(x.copy())

    dtypes = ("bool", *SIGNED, "uint8", *FLOATS, *COMPLEX)  # its other unsigned dtypes cannot be multiplied
    return [Backend("torch", to_torch, lambda y: y.numpy(force=True), lambda x: x.device, dtypes, ("float16",))]


def _jax() -> list[Backend]:
    import jax

    jax.config.update("jax_enable_x64", True)
    return [Backend("jax", jax.numpy.asarray, np.asarray, lambda x: x.device, halves=("float16",), examples=4)]


def _cupy() -> list[Backend]:
    import cupy

    if not cupy.is_available():
        return []
    own = {"halves": ("float16",), "compiles": ("direct", "implicit_gemm")}
    return [Backend("cupy", cupy.asarray, cupy.asnumpy, lambda x: x.device.id, **own)]


def available() -> list[Backend]:
    """Every backend that this machine can run."""
    optional = {"array_api_strict": _array_api_strict, "torch": _torch, "jax": _jax, "cupy": _cupy}
    found = _numpy_variants() + _cuda_on_cpu()
    for package, backends in optional.items():
        if importlib.util.find_spec(package):
            found += backends()
    return found


BACKENDS = available()
NAMES = [*(backend.name for backend in BACKENDS)]
MISSING = [name for name in ("cuda-on-cpu", "torch", "jax", "cupy") if name not in NAMES]
