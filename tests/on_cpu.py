"""CuPy's ``RawKernel`` for NumPy's arrays: a kernel's own source, compiled for the processor (``cuda/on_cpu.h``).

It shows what a kernel computes, with the grid, the blocks and the arguments that it would be launched with on a GPU;
not how fast, nor whether a GPU's compiler takes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from polyconv import arrays

COMPILER = shutil.which("g++")
H200 = arrays.Accelerator("NVIDIA H200", (9, 0), 132, 1.98e9, 4.8e12, 141 * 10**9)
_HEADER = Path(__file__).parent / "cuda" / "on_cpu.h"


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@lru_cache
def _compiled(code: str, name: str) -> Any:
    text = f"""#include "{_HEADER}"
{code}
extern "C" void launch(const unsigned *grid, const unsigned *block, void **arguments) {{
    on_cpu::run([](void **given) {{ on_cpu::spread({name}, given); }}, arguments,
                {{grid[0], grid[1], grid[2]}}, {{block[0], block[1], block[2]}});
}}
"""
    stem = Path(_folder().name) / hashlib.sha256(text.encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(text)
    command = [COMPILER or "", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o", f"{stem}.so", f"{stem}.cpp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return ctypes.CDLL(f"{stem}.so").launch


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel as it was launched: its whole source, its name, and the grid and blocks of threads."""

    code: str
    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def constants(self) -> dict[str, str]:
        """What stands before the source's own text: types and numbers, by name."""
        types = {name: kind for kind, name in re.findall(r"^typedef (.*) (\w+);$", self.code, re.MULTILINE)}
        return types | dict(re.findall(r"^constexpr (?:int|bool) ([A-Z_]+) = (\w+);$", self.code, re.MULTILINE))


_watching: list[tuple[list[Launch], bool]] = []


@contextlib.contextmanager
def watched(run: bool = True) -> Iterator[list[Launch]]:
    """What is launched within this context, and is run only where that says so."""
    launches: list[Launch] = []
    _watching.append((launches, run))
    try:
        yield launches
    finally:
        _watching.pop()


class RawKernel:
    """``RawKernel(code, name)(grid, block, arguments)``, of NumPy's arrays, scalars and records of size one."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self.code, self.name = code, name

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        for launches, run in _watching:
            launches.append(Launch(self.code, self.name, grid, block))
            if not run:
                return
        assert max(block) * len(block) <= 1024
        assert max(grid[1:], default=1) <= 65535
        values = [
            np.asarray(a) if a.dtype.names else np.asarray(a.ctypes.data, dtype=np.uintp)
            if isinstance(a, np.ndarray)
            else np.asarray(a)
            for a in arguments
        ]  # fmt: skip
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        three = [(ctypes.c_uint * 3)(*((*lengths, 1, 1)[:3])) for lengths in (grid, block)]
        _compiled(self.code, self.name)(*three, pointers)


@contextlib.contextmanager
def stand_in(
    gpu: arrays.Accelerator | None = None,
    within: Callable[[Any], contextlib.AbstractContextManager[object]] | None = None,
) -> Iterator[None]:
    """Within this context NumPy's arrays are taken for CuPy's: they have CUDA's kernels, and none of numba's.

    They are planned for as if they lived on a ``gpu``, and must be worked with ``within`` what is given.
    """
    namespace = ModuleType("numpy")
    namespace.__dict__.update(vars(arrays._NUMPY_NAMESPACE), RawKernel=RawKernel)
    own: dict[str, Any] = {"threads": False, "compiled": False, "cuda": True, "within": within}
    library = dataclasses.replace(arrays._NUMPY, **own, accelerator=lambda device: gpu)
    of_type = {**arrays._library_of_type, np.ndarray: library, np.memmap: library}
    with (
        mock.patch.object(arrays, "_NUMPY_NAMESPACE", namespace),
        mock.patch.object(arrays, "_NUMPY", library),
        mock.patch.object(arrays, "_library_of_type", of_type),
    ):
        yield
