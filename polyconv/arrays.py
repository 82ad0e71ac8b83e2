"""Array libraries: the one file that knows NumPy, CuPy, PyTorch, JAX and Dask by name.

Everything else is written against the Array API standard and asks this file for what the standard lacks:
sliding windows, einsum, order in memory, and where an array lives.
What a library needs done its own way is one :class:`Library` record; a library without one is driven by the
standard alone.
"""

from __future__ import annotations

import ctypes
import math
import operator
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import array_api_compat
import numpy as np

from . import buffers, dtypes
from .problem import ConvProblem, reach

__all__ = [
    "Accelerator",
    "Array",
    "ArraySpec",
    "Library",
    "address",
    "aligned",
    "at_home",
    "blas_pools",
    "by_value",
    "constant",
    "contiguous",
    "describe",
    "describe_shapes",
    "device",
    "device_name",
    "devices",
    "dtype_in",
    "einsum",
    "epsilon",
    "every",
    "grid",
    "in_chunks",
    "innermost",
    "inverse",
    "is_accelerator",
    "joined",
    "lengths_of",
    "memory",
    "multiply",
    "new",
    "no_array",
    "offsets",
    "one_thread",
    "outgrows",
    "padded_rows",
    "plain",
    "random",
    "ratios",
    "spelled",
    "steps",
    "sum_of_products",
    "synchronize",
    "threads",
    "versions",
    "windows",
    "workspace",
    "written_in_place",
]

_F = TypeVar("_F", bound=Callable[..., Any])
Array = Any  # an array of any library; the Array API standard defines no common base class


# -- sliding windows: (N, G, C, *size) -> (N, G, C, *kernel, *output_size) -----------------------------------


def _strided_windows(as_strided: Callable[..., Array], x: Array, problem: ConvProblem) -> Array:
    """Windows as a view: a kernel step moves by ``dilation`` elements, an output step by ``stride``."""
    bytes_ = x.strides
    space = bytes_[3:]
    taps, steps = map(operator.mul, space, problem.dilation), map(operator.mul, space, problem.stride)
    return as_strided(x, (*x.shape[:3], *problem.kernel, *problem.output_size), (*bytes_[:3], *taps, *steps))


def _numpy_as_strided(x: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    if x.flags.c_contiguous:  # the constructor checks the bounds, and takes a sixth of as_strided's time
        return np.ndarray(shape, x.dtype, x, 0, strides)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def _numpy_windows(x: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    return _strided_windows(_numpy_as_strided, x, problem)


def _cupy_windows(x: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    import cupy

    return _strided_windows(cupy.lib.stride_tricks.as_strided, x, problem)


def _torch_windows(x: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Windows as a view that autograd follows: ``unfold`` spans each window, a slice thins it out."""
    spans = map(reach, problem.kernel, problem.dilation)
    for i, (span, stride) in enumerate(zip(spans, problem.stride, strict=True)):
        x = x.unfold(3 + i, span, stride)
    x = x[(..., *(slice(None, None, d) for d in problem.dilation))]
    n = problem.ndim
    return x.permute(0, 1, 2, *range(3 + n, 3 + 2 * n), *range(3, 3 + n))


def _gathered_windows(x: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Windows as a copy, one ``take`` per spatial axis; the standard alone suffices."""
    n, where = problem.ndim, device(x)
    for i in reversed(range(n)):
        taps = xp.arange(problem.kernel[i], device=where) * problem.dilation[i]
        steps = xp.arange(problem.output_size[i], device=where) * problem.stride[i]
        index = xp.reshape(taps[:, None] + steps[None, :], (-1,))
        x = xp.take(x, index, axis=3 + i)
        x = xp.reshape(x, (*x.shape[: 3 + i], problem.kernel[i], problem.output_size[i], *x.shape[4 + i :]))
    return xp.permute_dims(x, (0, 1, 2, *range(3, 3 + 2 * n, 2), *range(4, 4 + 2 * n, 2)))


# -- einsum, of two operands that share no letter of the result ----------------------------------------------


def _einsum_with_path(subscripts: str, a: Array, b: Array, xp: ModuleType) -> Array:
    return xp.einsum(subscripts, a, b, optimize=True)  # without it NumPy and CuPy never reach BLAS


def _einsum(subscripts: str, a: Array, b: Array, xp: ModuleType) -> Array:
    return xp.einsum(subscripts, a, b)


def _einsum_by_tensordot(subscripts: str, a: Array, b: Array, xp: ModuleType) -> Array:
    inputs, result = subscripts.split("->")
    left, right = inputs.split(",")
    summed = [letter for letter in left if letter in right]
    product = xp.tensordot(a, b, axes=([left.index(s) for s in summed], [right.index(s) for s in summed]))
    letters = [letter for letter in left + right if letter not in summed]
    return xp.permute_dims(product, tuple(letters.index(letter) for letter in result))


def _numpy_sum_of_products(subscripts: str, a: Array, b: Array, y: Array) -> None:
    np.einsum(subscripts, a, b, out=y)


# -- memory --------------------------------------------------------------------------------------------------


def _as_it_is(x: Array) -> Array:
    return x


def _cupy_contiguous(x: Array) -> Array:
    import cupy

    return cupy.ascontiguousarray(x)


def _torch_contiguous(x: Array) -> Array:
    return x.contiguous()


# -- matrix products -----------------------------------------------------------------------------------------


class _OneThread:
    """Whether matrix products keep to the thread that asks for them, as the pool of threads has them do."""

    held = False

    def __bool__(self) -> bool:
        return self.held or threads() == 1


one_thread = _OneThread()

_UNPACKED = 1_000_000  # multiply-adds of a product whose factors OpenBLAS reads where they lie, in one thread
_WORTH_CUTTING = 64  # rows that such a product should have at least


def _multiply(a: Array, b: Array, y: Array, xp: ModuleType) -> None:
    y[...] = xp.matmul(a, b)


def _numpy_multiply(a: Array, b: Array, y: Array, xp: ModuleType) -> None:
    """OpenBLAS copies what it multiplies, unless there is little of it: long factors are cut where the other is small.

    Where few filters meet many positions, copies are half of the time. All the parts are one call of NumPy's.
    """
    (m, k), n = a.shape[-2:], b.shape[-1]
    if n > m:  # the same, seen from the other side
        a, b, y, m, n = b.mT, a.mT, y.mT, n, m
    step = _UNPACKED // max(k * n, 1) // 16 * 16
    if m <= step or step < _WORTH_CUTTING or not one_thread:
        np.matmul(a, b, out=y)
        return
    even = m - m % step

    def cut(c: Array) -> Array:
        return c[..., :even, :].reshape(*c.shape[:-2], -1, step, c.shape[-1])

    np.matmul(cut(a), b[..., None, :, :], out=cut(y))
    if even < m:
        np.matmul(a[..., even:, :], b, out=y[..., even:, :])


def _no_join(x: Array, first: int, last: int) -> None:
    """Most libraries do not say what would be a copy."""


def _numpy_join(x: Array, first: int, last: int) -> Array | None:
    shape, strides = x.shape, x.strides
    merged, step = 1, 0
    for n, stride in zip(shape[first:last], strides[first:last], strict=True):
        if n > 1:
            if merged > 1 and step != n * stride:
                return None
            merged, step = merged * n, stride
    return x.reshape(*shape[:first], merged, *shape[last:])


# -- waiting for results -------------------------------------------------------------------------------------


def _cupy_wait(x: Array) -> None:
    import cupy

    with x.device:
        cupy.cuda.get_current_stream().synchronize()


def _torch_wait(x: Array) -> None:
    if x.is_cuda:
        import torch

        torch.cuda.synchronize(x.device)


def _jax_wait(x: Array) -> None:
    x.block_until_ready()


# -- accelerators --------------------------------------------------------------------------------------------


class Accelerator(NamedTuple):
    """What a GPU says of itself.

    Its clock in Hz, its memory in bytes, and the bytes per second that go there and back; and what tells the library to
    round what single precision's matrix products multiply to 11 bits (TF32), if anything does.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock: float
    bandwidth: float
    memory: int
    rounds: str | None = None

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name}, compute capability {major}.{minor}, {self.memory / 1e9:.0f} GB"


_LEAST_BANDWIDTH, _LEAST_CLOCK = 2e11, 1e9  # bytes per second and Hz, of a GPU that does not say


def _no_accelerator(device: Any) -> None:
    """Of most libraries nothing is known but that there is one."""


def _cupy_accelerator(device: Any) -> Accelerator:
    return _cuda_device(device.id)


@lru_cache
def _cuda_device(number: int) -> Accelerator:
    from cupy.cuda import runtime

    properties = runtime.getDeviceProperties(number)

    def attribute(name: str) -> int:
        return int(runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{name}"), number))

    capability = (properties["major"], properties["minor"])
    # Both edges of the memory's clock move the width of its bus; clocks are in kHz, and the width in bits. Of memory
    # that is the processor's as well, some drivers say nothing.
    bandwidth = 2 * attribute("MemoryClockRate") * 1e3 * attribute("GlobalMemoryBusWidth") / 8 or _LEAST_BANDWIDTH
    return Accelerator(
        properties["name"].decode(),
        capability,
        properties["multiProcessorCount"],
        attribute("ClockRate") * 1e3 or _LEAST_CLOCK,
        bandwidth,
        properties["totalGlobalMem"],
        "CUPY_TF32" if capability >= (8, 0) and int(os.environ.get("CUPY_TF32", "0")) else None,
    )


def _cupy_device(device: Any) -> AbstractContextManager[object]:
    import cupy

    found: AbstractContextManager[object] = cupy.cuda.Device(device.id)
    return found


# -- the libraries -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Library:
    """What one array library has that the standard lacks, or does better than the standard.

    ``call_seconds`` is the time that one small array operation takes. ``wait`` returns once an array is computed.
    ``threads`` says whether operations of several threads at once pay: they leave the interpreter to others, and do
    not keep every processor busy by themselves; ``compiled`` whether numba's code runs on its arrays, and ``cuda``
    whether CUDA's does, through its ``RawKernel``. ``in_place`` says whether results are written in place, tile by tile
    say: not where arrays cannot be written to, nor where transformations of functions (``grad``, ``vmap``) would not
    follow. ``accelerator`` is what a device of the library says of itself, and ``within`` where its arrays must be
    worked with, if not anywhere.
    """

    name: str
    call_seconds: float
    in_place: bool = True
    windows: Callable[[Array, ConvProblem, ModuleType], Array] = _gathered_windows
    einsum: Callable[[str, Array, Array, ModuleType], Array] = _einsum_by_tensordot
    sum_of_products: Callable[[str, Array, Array, Array], None] | None = None
    contiguous: Callable[[Array], Array] = _as_it_is
    multiply: Callable[[Array, Array, Array, ModuleType], None] = _multiply
    join: Callable[[Array, int, int], Array | None] = _no_join
    wait: Callable[[Array], object] = _as_it_is
    threads: bool = False
    compiled: bool = False
    cuda: bool = False
    accelerator: Callable[[Any], Accelerator | None] = _no_accelerator
    within: Callable[[Any], AbstractContextManager[object]] | None = None


_NUMPY = Library(
    "numpy", 1e-6, True, _numpy_windows, _einsum_with_path, _numpy_sum_of_products, np.ascontiguousarray,
    _numpy_multiply, _numpy_join, threads=True, compiled=True,
)  # fmt: skip
_CUPY = Library(
    "cupy", 8e-6, True, _cupy_windows, _einsum_with_path, contiguous=_cupy_contiguous, wait=_cupy_wait, cuda=True,
    accelerator=_cupy_accelerator, within=_cupy_device,
)  # fmt: skip
_TORCH = Library("torch", 4e-6, False, _torch_windows, _einsum, contiguous=_torch_contiguous, wait=_torch_wait)
_JAX = Library("jax", 3e-5, False, _gathered_windows, _einsum, wait=_jax_wait)

# NumPy's own namespace is the standard's since NumPy 2. Two of its functions only call a method, and take three times
# the method's time to do so, which is what a small image's convolution mostly consists of.
_NUMPY_NAMESPACE = ModuleType("numpy")
_NUMPY_NAMESPACE.__dict__.update(vars(np), reshape=np.ndarray.reshape, permute_dims=np.ndarray.transpose)
_NUMPY_NAMESPACE.__getattr__ = lambda name: getattr(np, name)  # type: ignore[method-assign]  # numpy.fft comes late

_LIBRARIES: tuple[tuple[Callable[[object], bool], Library], ...] = (
    (array_api_compat.is_numpy_array, _NUMPY),
    (array_api_compat.is_cupy_array, _CUPY),
    (array_api_compat.is_torch_array, _TORCH),
    (array_api_compat.is_jax_array, _JAX),
)

_library_of_type: dict[type, Library] = {}


def _library(x: Array) -> Library:
    """The library of an array. Which one it is depends on the array's type alone, so it is looked up once."""
    found = _library_of_type.get(type(x))
    if found is None:
        known = (library for is_from, library in _LIBRARIES if is_from(x))
        found = next(known, None) or Library(type(x).__module__.partition(".")[0], 1e-5)
        _library_of_type[type(x)] = found
    return found


def windows(x: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Every window of a padded image, tap by tap: ``(N, G, C, *size)`` -> ``(N, G, C, *kernel, *output_size)``.

    A view where the library has strides (NumPy, CuPy, PyTorch), gathered elsewhere.
    """
    return _library(x).windows(x, problem, xp)


def einsum(subscripts: str, a: Array, b: Array, xp: ModuleType) -> Array:
    """``einsum`` of two operands that share no letter of the result; a tensordot where the library has none."""
    return _library(a).einsum(subscripts, a, b, xp)


def multiply(a: Array, b: Array, y: Array, xp: ModuleType) -> None:
    """Matrix products into a ``y`` that is there: ``(..., m, k)`` by ``(..., k, n)`` into ``(..., m, n)``."""
    _library(y).multiply(a, b, y, xp)


def joined(x: Array, first: int, last: int) -> Array | None:
    """``x`` with its axes from ``first`` to ``last - 1`` as one, a view; None where that would take a copy."""
    return _library(x).join(x, first, last)


def sum_of_products(subscripts: str, a: Array, b: Array, y: Array) -> None:
    """``einsum`` into a ``y`` that is there, each sum gathered where it belongs: no product is stored.

    For libraries that have it, which NumPy is.
    """
    found = _library(y).sum_of_products
    assert found is not None
    found(subscripts, a, b, y)


def contiguous(x: Array) -> Array:
    """``x`` laid out in memory in the order of its axes (C order), copied only where it is not so already."""
    return _library(x).contiguous(x)


def ratios(numerators: Sequence[Sequence[int]], denominator: int, dtype: str) -> np.ndarray:
    """A small matrix of exact fractions, each rounded to ``dtype``, as NumPy's; :func:`constant` takes it elsewhere."""
    if denominator == 1:
        return np.asarray(numerators, dtype=dtype)
    return (np.asarray(numerators, dtype=np.longdouble) / np.longdouble(denominator)).astype(dtype)


def epsilon(dtype: str) -> float:
    """The distance from one to the next number of a dtype; zero for integers."""
    return 0.0 if "int" in dtype else float(np.finfo(dtype).eps)


def constant(values: np.ndarray, xp: ModuleType, where: Any) -> Array:
    """A small NumPy array, of the method's own making, as an array of the library ``xp``."""
    return values if xp is _NUMPY_NAMESPACE else xp.asarray(values, device=where)


def synchronize(x: Array) -> None:
    """Wait until ``x`` has been computed, where its library computes behind the caller's back."""
    _library(x).wait(x)


def random(spec: ArraySpec) -> Array:
    """An array like ``spec`` of random numbers: normal deviates, or small integers."""
    rng, kind = np.random.default_rng(0), dtypes.kind(spec.dtype, spec.xp)
    values = rng.standard_normal(spec.shape) if kind >= 2 else rng.integers(0, 2 if kind == 0 else 100, spec.shape)
    return spec.xp.astype(constant(values, spec.xp, spec.device), spec.dtype)


def new(
    make: Callable[..., Array], shape: Sequence[int], order: Sequence[int], dtype: Any, where: Any, xp: ModuleType
) -> Array:
    """What ``make`` makes (``xp.empty``, say) of ``shape``, lying in memory in the ``order`` of its axes.

    Empty arrays of NumPy's are :func:`aligned` where they are large, or all their rows (or pixels, of all groups) whole
    lines then: most vectors that are stored would lie across two otherwise.
    """
    lengths = tuple(shape[axis] for axis in order)
    item = np.dtype(dtype).itemsize if make is np.empty else 0
    if math.prod(lengths) * item >= buffers.WORTH or (item and math.prod(lengths[-2:]) * item % _LINE == 0):
        made = aligned(lengths, dtype)
    else:
        made = make(lengths, dtype=dtype, device=where)
    return xp.permute_dims(made, inverse(tuple(order)))


@lru_cache
def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Where each axis comes to be in an ``order`` of axes."""
    return tuple(map(order.index, range(len(order))))


_LINE = 64  # bytes of a line of the cache
_WORTH = 4096  # bytes from which on it matters where an array begins
_FAR = 8 << 20  # bytes of a result that it does not pay to keep in a cache, even where it is read at once


def _bytes(number: int) -> np.ndarray:
    return np.empty(number, np.uint8)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty NumPy array that begins at a line of the cache: vectors that lie across two are loaded twice.

    Large ones have memory of :mod:`polyconv.buffers`: results and workspaces are dropped and made anew in call after
    call.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _WORTH:
        return np.empty(shape, dtype)
    number = size + _LINE
    memory = _bytes(number) if size < buffers.WORTH else np.asarray(buffers.lend(number, _bytes))
    first = -_data(memory) % _LINE
    return np.ndarray(shape, dtype, memory, first)


def outgrows(y: np.ndarray, vector: int) -> bool:
    """Whether a result is larger than what pays in caches, and may be stored past them in vectors of so many bytes.

    Before a line of the cache is stored to it is read, unless it is stored past the caches, and then as a whole; and so
    they keep for others what they have.
    """
    if y.nbytes <= _FAR or vector != _LINE or address(y) % _LINE:
        return False
    return not any(stride % _LINE and stride != y.itemsize for stride in y.strides)


def workspace(shape: tuple[int, ...], dtype: Any, where: Any, xp: ModuleType) -> Array:
    """An empty array of any library that a method makes for itself, see :func:`aligned`."""
    return aligned(shape, dtype) if xp is _NUMPY_NAMESPACE else xp.empty(shape, dtype=dtype, device=where)


def memory(x: np.ndarray, inner: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    """A NumPy array as compiled loops take it, and its strides in elements; itself, unless it must be copied.

    It must where it runs backwards, is not aligned, or has other elements between those of its ``inner`` axis.
    """
    item, strides = x.itemsize, x.strides
    apart = inner is not None and strides[inner] != item and x.shape[inner] > 1
    if apart or not x.flags.aligned or min(strides, default=0) < 0:
        order = sorted(range(x.ndim), key=lambda axis: (inner in (axis, axis - x.ndim), -abs(strides[axis])))
        x = np.ascontiguousarray(x.transpose(order)).transpose(inverse(tuple(order)))
    return x, steps(x)


def at_home(function: _F) -> _F:
    """``function``, called where the library of its first argument wants arrays to be worked with."""

    @wraps(function)
    def there(*arguments: Any, **keywords: Any) -> Any:
        x = arguments[0] if arguments else next(iter(keywords.values()), None)
        if (within := _library(x).within) is None:
            return function(*arguments, **keywords)
        with within(device(x)):
            return function(*arguments, **keywords)

    return there  # type: ignore[return-value]


def innermost(x: Array) -> int:
    """The axis along which elements are neighbours in memory; the last where the library does not say."""
    strides = getattr(x, "strides", None)
    if strides is None:
        return len(x.shape) - 1
    return min(
        (axis for axis, n in enumerate(x.shape) if n > 1), key=lambda axis: abs(strides[axis]), default=x.ndim - 1
    )


def _data(x: np.ndarray) -> int:
    """Where the first element of a NumPy array is.

    ``x.ctypes.data`` says so too, but makes three objects to do it, several times in every call, and each time in a
    tenth of what all of a small one takes. The address comes first in NumPy's structure of an array, as its C API has
    it (``PyArrayObject_fields``), behind what CPython keeps of every object.
    """
    return _pointer_at(id(x) + _HEAD).value or 0


_HEAD = object.__basicsize__  # bytes
_pointer_at = ctypes.c_void_p.from_address
_known = np.zeros(1)
if sys.implementation.name != "cpython" or _data(_known) != _known.ctypes.data:

    def _data(x: np.ndarray) -> int:
        return int(x.ctypes.data)


def address(x: Array) -> int:
    """Where the first element of an array of NumPy's or CuPy's is; the caller keeps the array alive."""
    return _data(x) if isinstance(x, np.ndarray) else int(x.data.ptr)


def steps(x: Array) -> tuple[int, ...]:
    """How many elements lie between neighbours along each axis of an array of NumPy's or CuPy's."""
    item = x.itemsize
    return tuple([stride // item for stride in x.strides])


def by_value(*numbers: int) -> np.ndarray:
    """Integers of 64 bits as one record, which CuPy hands to a kernel by value."""
    return np.array((numbers,), dtype=[("numbers", np.int64, (len(numbers),))])


def grid(lengths: Sequence[int]) -> np.ndarray:
    """Where the elements of an array of these ``lengths`` lie along each axis, the last fastest: NumPy's, int32."""
    return np.ascontiguousarray(np.indices(lengths, dtype=np.int32).reshape(len(lengths), -1).T)


def padded_rows(rows: Sequence[Array], xp: ModuleType) -> Array:
    """Tables of offsets of several lengths as the rows of one, filled up with zeros."""
    longest = max(row.shape[0] for row in rows)
    return xp.stack([xp.concat([row, xp.zeros(longest - row.shape[0], dtype=row.dtype)]) for row in rows])


def every(number: int, step: int) -> Sequence[int]:
    """``number`` offsets that are ``step`` apart, from zero on."""
    return range(0, number * step, step) if step else (0,) * number


def offsets(axes: tuple[Sequence[int], ...], xp: ModuleType) -> Array:
    """Where the elements of a grid lie, flat and as int64: the sum of one offset of each axis, the last fastest."""
    total = xp.zeros(1, dtype=xp.int64)
    for axis in axes:
        total = xp.reshape(total[:, None] + xp.asarray(axis, dtype=xp.int64), (-1,))
    return total


def written_in_place(x: Array) -> bool:
    """Whether new arrays of the library of ``x`` may be filled in place."""
    return _library(x).in_place


def plain(x: Array) -> Array:
    """``x`` without what a NumPy subclass (``memmap``, ``matrix``) or scalar adds; any other array as it is."""
    return np.asarray(x) if isinstance(x, np.ndarray | np.generic) else x


# -- describing arrays ---------------------------------------------------------------------------------------


class ArraySpec(NamedTuple):
    """What planning may know of an array: never its data. ``device`` is None where it is not fixed yet."""

    shape: tuple[int, ...]
    dtype: Any
    library: Library
    xp: ModuleType
    device: Any


@dataclass(frozen=True)
class CudaDevice:
    """A device of CuPy's, whose own word for it is equal to others, but cannot be looked up in a table."""

    id: int

    def __int__(self) -> int:
        return self.id

    def __str__(self) -> str:
        return f"cuda:{self.id}"


def device(x: Array) -> Any:
    """Where an array lives; None inside a JAX transformation, where that is not decided."""
    where = array_api_compat.device(x)
    return CudaDevice(where.id) if _library(x).cuda and hasattr(where, "id") else where


def no_array(x: object, name: str) -> str:
    """That ``x`` is none, as an error says it."""
    return (
        f"{name} must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not {type(x).__name__}"
    )


def describe(x: Array, name: str) -> ArraySpec:
    """What planning may know of ``x``. Raises TypeError, naming the argument, for what is no array of numbers."""
    if type(x) is np.ndarray:  # the shortest road for the commonest case
        spec = ArraySpec(x.shape, x.dtype, _NUMPY, _NUMPY_NAMESPACE, "cpu")
    elif in_chunks(x):
        if any(length != length for length in x.shape):
            raise ValueError(f"{name} has chunks of unknown sizes {x.chunks}; call {name}.compute_chunk_sizes() first")
        spec = describe(x._meta, name)._replace(shape=tuple(x.shape))
    elif isinstance(x, np.ndarray) and isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask a convolution would drop; pass {name}.filled(...)")
    elif isinstance(x, type) or not array_api_compat.is_array_api_obj(x):
        raise TypeError(no_array(x, name))
    else:
        library = _library(x)
        xp = _NUMPY_NAMESPACE if library is _NUMPY else array_api_compat.array_namespace(x)
        spec = ArraySpec(tuple(x.shape), x.dtype, library, xp, device(x))
    if dtypes.kind(spec.dtype, spec.xp) < 0:
        raise TypeError(f"{name} has dtype {spec.dtype}, which is not numeric")
    return spec


def in_chunks(x: Any) -> bool:
    """Whether ``x`` is a Dask array, which is described as what its blocks are."""
    return array_api_compat.is_dask_array(x)


def fits(x: Array, spec: ArraySpec) -> bool:
    """Whether ``x`` is, at a glance, what ``spec`` describes: True is certain, False calls for a closer look."""
    return type(x) is np.ndarray and spec.library is _NUMPY and x.shape == spec.shape and bool(x.dtype == spec.dtype)


def describe_shapes(x: Any, w: Any) -> tuple[ArraySpec, ArraySpec]:
    """As :func:`describe` of an image and a kernel, for anything with ``.shape`` and ``.dtype``.

    What is no array is taken to be of the other's library, or of NumPy's where neither is one.
    """
    pair = {"x": x, "w": w}
    specs = {name: a for name, a in pair.items() if isinstance(a, ArraySpec)}
    specs |= {name: describe(a, name) for name, a in pair.items() if array_api_compat.is_array_api_obj(a)}
    home = next(iter(specs.values()), None) or describe(np.empty(0), "")
    for name, a in pair.items():
        if not (hasattr(a, "shape") and hasattr(a, "dtype")):
            raise TypeError(f"{no_array(a, name)}, and it has no shape and dtype to plan with")
        if name not in specs:
            dtype = dtype_in(a.dtype, home.xp, f"{name}.dtype")
            specs[name] = home._replace(shape=lengths_of(a.shape, f"{name}.shape"), dtype=dtype)
    return specs["x"], specs["w"]


def lengths_of(shape: Any, name: str) -> tuple[int, ...]:
    """A shape as a tuple of integers. Raises TypeError for what is none."""
    try:
        found = tuple(map(operator.index, shape))
    except TypeError:
        found = (-1,)
    if min(found, default=0) < 0:
        if getattr(shape, "ndim", 1) != 1:  # the array itself, which would fill pages
            raise TypeError(f"{name} must be a tuple of lengths, and is an array of shape {tuple(shape.shape)}")
        raise TypeError(f"{name}={shape!r} must be a tuple of lengths")
    return found


def dtype_in(dtype: Any, xp: ModuleType, name: str = "dtype") -> Any:
    """``dtype`` as arrays of the library ``xp`` carry it: from its own dtype, a name, a NumPy dtype or a Python type.

    Raises TypeError where the library has no such dtype; ``name`` is what the caller calls it.
    """
    known: Any = dtype
    if isinstance(dtype, str | type | np.dtype):
        try:
            known = vars(xp).get(np.dtype(dtype).name)
        except (SyntaxError, TypeError, ValueError):  # not NumPy's to know, but perhaps a name of the library's own
            known = vars(xp).get(str(dtype))
    try:
        if dtypes.kind(known, xp) >= 0:
            return xp.empty(0, dtype=known).dtype  # ``jax.numpy.float32`` is a class; arrays carry a dtype
    except TypeError:  # what cannot be hashed is no dtype either
        pass
    raise TypeError(f"{name}={dtype!r} is not a numeric dtype of {spelled(xp)}")


def spelled(xp: ModuleType) -> str:
    """A namespace's name as users import it."""
    return xp.__name__.removeprefix("array_api_compat.")


def is_accelerator(where: Any) -> bool:
    """Whether a device is a GPU or the like, whose rates are not a processor's."""
    return any(word in repr(where).lower() for word in ("cuda", "gpu", "rocm", "tpu"))


# -- what is installed ---------------------------------------------------------------------------------------

_PACKAGES = (
    "numpy",
    "array-api-compat",
    "array-api-extra",
    "threadpoolctl",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "torch",
    "jax",
    "dask",
    "numba",
)


def versions() -> dict[str, str]:
    """The installed versions of the packages that polyconv can work with, without importing any."""
    import importlib.metadata  # slow to import, and only a report needs it

    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def uncompiled() -> str | None:
    """Why numba cannot compile here, to be read after an algorithm's name; None where it can."""
    import importlib.util

    wanted = "needs numba 0.62 or later, pip install 'polyconv[numba]'"
    if importlib.util.find_spec("numba") is None:
        return f"{wanted}, which is not installed"
    found = versions().get("numba", "0")
    if tuple(map(int, found.split(".")[:2])) < (0, 62):
        return f"{wanted}, and this is {found}"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "needs numba, which NUMBA_DISABLE_JIT keeps from compiling"
    return None


def devices() -> dict[str, Sequence[str]]:
    """The devices of each array library that this process has imported already; none is imported for it."""
    found: dict[str, Sequence[str]] = {"numpy": ["cpu"]}
    if cupy := sys.modules.get("cupy"):
        count = cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0
        names = (cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count))
        found["cupy"] = [f"cuda:{i} {name}" for i, name in enumerate(names)]
    if torch := sys.modules.get("torch"):
        count = torch.cuda.device_count()
        found["torch"] = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))]
    if jax := sys.modules.get("jax"):
        found["jax"] = list(map(str, jax.devices()))
    return found


def device_name(spec: ArraySpec) -> str:
    """A device with the model of its accelerator, since two machines may both have a ``cuda:0``."""
    number = getattr(spec.device, "id", getattr(spec.device, "index", None))
    names = devices().get(spec.library.name, ())
    named = [name for name in names if name.startswith(f"cuda:{number} ")]
    return named[0] if named and is_accelerator(spec.device) else str(spec.device)


def blas_pools() -> list[dict[str, Any]]:
    """What threadpoolctl knows of every BLAS in the process: its library, version, core type and threads."""
    import threadpoolctl  # slow to import, and small images never need it

    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
