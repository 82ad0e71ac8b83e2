"""What every algorithm is: a record of pure functions over a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from ..arrays import Array
from ..problem import ConvProblem

__all__ = ["Algorithm", "Cost", "never"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an algorithm spends on a problem, in units that no machine enters.

    Attributes
    ----------
    matmul_macs
        Multiply-accumulate operations done inside matrix products.
    traffic
        Bytes that array operations outside the matrix products read and write, and that the products read.
    runs
        Inner loops that those operations start: a strided copy moves one stretch of memory after another, and
        short stretches cost more than their bytes.
    calls
        Array operations (or Python-level element operations), each of which costs its library's overhead.
    workspace
        Peak bytes held at once beside the inputs and the result.
    """

    matmul_macs: int
    traffic: int
    runs: int
    calls: int
    workspace: int


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to convolve.

    Attributes
    ----------
    name
        The name the literature knows it by.
    run
        ``run(x, w, problem, xp) -> y``, pure, over the Array API namespace ``xp``. ``x`` is the padded image
        ``(N, G, C, *size)``, ``w`` the kernel ``(G, K, C, *kernel)``, both of ``problem.dtype``; ``y`` is
        ``(N, G, K, *output_size)``, a new array of the same dtype. No dimension is empty. The axes always stand
        in this order; in memory, channels are innermost where ``problem.channels_last`` says so.
    cost
        ``cost(problem) -> Cost``. Looks at integers only, none of them zero.
    reject
        ``reject(problem) -> reason or None``: why this algorithm cannot run the problem, to be read after
        "cannot run this problem:".
    """

    name: str
    run: Callable[[Array, Array, ConvProblem, ModuleType], Array]
    cost: Callable[[ConvProblem], Cost]
    reject: Callable[[ConvProblem], str | None]


def never(problem: ConvProblem) -> None:
    """The ``reject`` of an algorithm that runs every problem."""
