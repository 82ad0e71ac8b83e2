"""How CUDA sources are compiled and run: by CuPy's ``RawKernel``, on the caller's device and stream.

What a kernel must know to be compiled (types, sizes of blocks, numbers of axes) stands before its source as typed
constants, so that few kinds are compiled, in about a second each, and kept on disk by CuPy. What it is told of a
problem (lengths and steps) goes by value in one record. Nothing waits for the device, and nothing comes back from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..arrays import Array, address, by_value, contiguous, steps
from ..problem import ConvProblem

if TYPE_CHECKING:
    from ..target import Target

__all__ = [
    "LONGEST",
    "TYPES",
    "WIDEST",
    "by_value",
    "casts",
    "kernel",
    "near",
    "planes",
    "reject",
    "slots",
    "source",
    "steps",
    "together",
    "types",
]

_SIGNS = {"": "signed", "u": "unsigned"}
_INTEGERS = {8: "char", 16: "short", 32: "int", 64: "long long"}
_STORED = {"bool": "unsigned char", "float16": "Half", "float32": "float", "float64": "double"}
_STORED |= {f"{sign}int{n}": f"{word} {name}" for n, name in _INTEGERS.items() for sign, word in _SIGNS.items()}

TYPES = {
    "float32": "float",
    "float64": "double",
    # Sums that run over shall wrap around, which C++ promises for unsigned integers alone; the bits are the same.
    **{f"{sign}int{bits}": f"unsigned {_INTEGERS[bits]}" for bits in (32, 64) for sign in _SIGNS},
}
"""What sums of a problem's dtype are in CUDA; other dtypes have no kernels."""

LONGEST = 2**31
"""What kernels count outputs, pixels of an image and threads up to."""

WIDEST = 16
"""Bytes that a thread moves at once."""

Constant = int | bool | str | tuple[Any, ...]


def _declared(name: str, value: Constant) -> str:
    if isinstance(value, str):
        return f"typedef {value} {name};"
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()};"
    if isinstance(value, int):
        return f"constexpr int {name} = {value};"
    # A table, as a function: what a device's code looks up in an array, it would look up in memory.
    lengths, first = [], value
    while isinstance(first, tuple):
        lengths.append(len(first))
        first = first[0]
    kind = "int" if isinstance(first, int) else "double"
    indices = [f"i{axis}" for axis in range(len(lengths))]
    table = "".join(f"[{length}]" for length in lengths)
    found = "".join(f"[{index}]" for index in indices)
    return (
        f"__host__ __device__ constexpr {kind} {name}({', '.join(f'int {index}' for index in indices)}) {{\n"
        f"    constexpr {kind} table{table} = {_braces(value)};\n    return table{found};\n}}"
    )


def _braces(value: Any) -> str:
    return f"{{{', '.join(map(_braces, value))}}}" if isinstance(value, tuple) else repr(value)


@lru_cache
def _text(file: str) -> str:
    return files(__package__).joinpath(file).read_text()


def source(file: str, constants: Sequence[tuple[str, Constant]]) -> str:
    """What is compiled: types, numbers and tables, and the text of the file."""
    halves = (_text("half.cuh"),) if any(value == "Half" for _, value in constants) else ()
    declared = (_declared(*constant) for constant in constants)
    return "\n".join((*halves, *declared, _text("pack.cuh"), _text(f"{file}.cu")))


@lru_cache(maxsize=256)
def kernel(file: str, name: str, constants: tuple[tuple[str, Constant], ...], xp: ModuleType) -> Callable[..., Any]:
    """The kernel ``name`` of a file: ``kernel(grid, block, arguments)`` has it run, and does not wait for it."""
    made: Callable[..., Any] = xp.RawKernel(source(file, constants), name, options=("--std=c++17",))
    return made


def types(x: Array, p: ConvProblem, y: Array) -> tuple[tuple[str, str], ...]:
    """The types of an image, of a problem's sums and of a result, as constants."""
    return ("X", _STORED[str(x.dtype)]), ("T", TYPES[p.dtype]), ("Y", _STORED[str(y.dtype)])


def casts(dtype: str) -> bool:
    """Whether kernels take images of a dtype, and make results of it, whatever that of sums."""
    return dtype in _STORED


def near(x: Array) -> tuple[Array, tuple[int, ...]]:
    """Images ``(N, G, C, *size)`` as kernels take them, and their steps in elements.

    They are themselves unless they are part of an array so large that pixels of one image lie too far apart to count.
    """
    apart = steps(x)
    if sum((length - 1) * abs(step) for length, step in zip(x.shape[1:], apart[1:], strict=True)) < LONGEST:
        return x, apart
    x = contiguous(x)
    return x, steps(x)


def together(a: Array, shape: tuple[int, ...], apart: tuple[int, ...], axis: int, number: int) -> int:
    """How many elements of ``a``, seen in a ``shape``, can be moved at once along an axis: a ``number``, or one.

    They must be neighbours, and lie at a multiple of so many, wherever they begin.
    """
    lengths = zip(apart, shape, strict=True)
    others = (step for other, (step, length) in enumerate(lengths) if other != axis and length > 1)
    off = shape[axis] % number or address(a) % (number * a.itemsize) or any(step % number for step in others)
    return 1 if off or apart[axis] != 1 else number


def planes(shape: tuple[int, ...], apart: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(N, G, C, *size)`` with one axis for space, and steps; zero there, if not all of it follows each other."""
    size, steps = shape[3:], apart[3:]
    follow = all(step == math.prod(size[axis + 1 :]) for axis, step in enumerate(steps) if size[axis] > 1)
    return (*shape[:3], math.prod(size)), (*apart[:3], int(follow))


def slots(p: ConvProblem, products: float, others: float) -> float:
    """The products that could be begun in the time of so many of them and so many other instructions.

    Counts are those of the machine's code. Products in double precision are begun half as often as anything else.
    """
    return products + others * min(1.0, 4 / p.itemsize)


def reject(p: ConvProblem, target: Target, name: str) -> str | None:
    """Why no kernel can run the problem there, for the algorithm called ``name``; None where one can."""
    if target.no_cuda:
        return f"{name} {target.no_cuda}"
    if p.dtype not in TYPES:
        return f"{name} is written for single and double precision and for integers, not for {p.dtype}"
    if max(p.batch * p.groups * p.filters * p.positions, p.groups * p.channels * math.prod(p.size)) >= LONGEST:
        return f"{name} counts up to {LONGEST} outputs, and elements of an image"
    return None
