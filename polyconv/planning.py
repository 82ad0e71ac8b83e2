"""Choosing an algorithm, and saying why.

Planning looks at descriptions only. Every algorithm either rejects the problem with a reason or states what it
would cost; the cheapest that keeps to the caller's demands stands. A plan can be printed, kept and called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from .algorithms import ALGORITHMS, Algorithm
from .arguments import Call, Demands, check_array, check_bias
from .arrays import Array
from .execution import Road, road, road_workspace
from .problem import ConvProblem
from .target import Target
from .tiling import Tile, count, cut, part, whole

__all__ = ["Candidate", "Plan", "make_plan"]


@dataclass(frozen=True)
class Candidate:
    """What an algorithm said to a problem: why it cannot, or what it would take.

    Attributes
    ----------
    name
        The algorithm's name.
    seconds
        Predicted time in seconds; ``inf`` where it cannot run.
    workspace
        Peak bytes beside the inputs and the result.
    tile
        How many images and how many rows it takes at a time.
    reason
        Why it cannot run the problem or may not under the caller's demands; None where it can.
    """

    name: str
    seconds: float
    workspace: int
    tile: Tile
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """One convolution made ready: what will run, why, and the means to run it any number of times.

    ``plan(x, w, bias)`` convolves arrays of the shapes, dtypes and library that it was made for;
    ``print(plan)`` shows every algorithm with its predicted cost or its reason for refusing.

    Attributes
    ----------
    call
        The arguments, canonical, and the :class:`~polyconv.problem.ConvProblem`.
    candidates
        One :class:`Candidate` per algorithm, in the order of :func:`polyconv.algorithms`.
    target
        The library and device.
    algorithm
        The name of the algorithm that will run.
    road
        The steps that the arrays take through it.
    """

    call: Call
    demands: Demands
    target: Target
    candidates: tuple[Candidate, ...]
    algorithm: str
    road: Road

    def __call__(self, x: Array, w: Array, bias: Array | None = None) -> Array:
        """Convolve ``x`` with ``w``. Raises ValueError or TypeError for arrays that the plan is not for."""
        check_array(x, "x", self.call.x)
        check_array(w, "w", self.call.w)
        return self.run(x, w, bias)

    def run(self, x: Array, w: Array, bias: Array | None) -> Array:
        """Convolve arrays that are known to fit, as those do from which the plan was just made."""
        if bias is not None:
            check_bias(bias, self.call)
        return self.road(x, w, bias)

    def __repr__(self) -> str:
        return f"<polyconv.Plan {self.algorithm}: {self._headline()}>"

    def _headline(self) -> str:
        call = self.call
        shapes = (call.x.shape, call.w.shape, call.output_shape)
        x, w, y = ("x".join(map(str, shape)) or "scalar" for shape in shapes)
        return f"{x} ({call.layout}) by {w} ({call.kernel_layout}) -> {y}"

    def __str__(self) -> str:
        p = self.call.problem
        why = "as asked" if self.demands.algorithm else "least predicted time"
        lines = [
            self._headline(),
            f"{p.dtype} on {self.target.library} ({self.target.device}), {_quantity(p.macs)} multiply-adds",
            "",
            f"  {'algorithm':<12} {'time':>9} {'workspace':>10}",
        ]
        for candidate in self.candidates:
            mark = ">" if candidate.name == self.algorithm else " "
            row = f"{mark} {candidate.name:<12} {_time(candidate.seconds):>9} {_bytes(candidate.workspace):>10}"
            note = candidate.reason or (why if mark == ">" else "")
            lines.append(f"{row}  {note}".rstrip())
        return "\n".join(lines)


def _quantity(n: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:g}"


def _bytes(n: int) -> str:
    return f"{_quantity(n)}B" if n >= 1000 else f"{n} B"


def _time(seconds: float) -> str:
    if math.isinf(seconds):
        return "-"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _consider(algorithm: Algorithm, call: Call, demands: Demands, target: Target) -> Candidate:
    problem = call.problem.padded
    tile = whole(problem)
    if reason := algorithm.reject(problem):
        return Candidate(algorithm.name, math.inf, 0, tile, reason)
    if not problem.macs:  # an empty dimension leaves nothing to do
        return Candidate(algorithm.name, 0.0, 0, tile)

    def workspace(p: ConvProblem) -> int:
        """Of one tile: the algorithm's, and the tile's result until it is put in its place."""
        return algorithm.cost(p).workspace + (p.output_elements * p.itemsize if p != problem else 0)

    limit, beside = demands.max_workspace, road_workspace(call)
    if target.tiled:
        wanted = target.tile_bytes(problem.kernel_elements * problem.itemsize)
        tile = cut(problem, workspace, wanted if limit is None else min(wanted, limit - beside))
    piece = part(problem, tile)
    held = workspace(piece) + beside
    over = f"needs {held} bytes, more than max_workspace={limit}" if limit is not None and held > limit else None
    seconds = count(problem, tile) * target.seconds(algorithm.cost(piece), problem.dtype)
    return Candidate(algorithm.name, seconds, held, tile, over)


@lru_cache(maxsize=1024)
def make_plan(call: Call, demands: Demands) -> Plan:
    """The plan for a call. Raises ValueError where the named algorithm, or every one, cannot run it."""
    target, asked = Target.of(call.x), demands.algorithm
    rows = ALGORITHMS if asked is None or asked in ALGORITHMS else (*ALGORITHMS, asked)
    considered = {row: _consider(row, call, demands, target) for row in rows}
    wanted = considered if asked is None else {asked: considered[asked]}
    possible = [row for row, candidate in wanted.items() if candidate.reason is None]
    if not possible:
        reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in wanted.values())
        subject = "no algorithm can" if asked is None else f"algorithm={asked.name!r} cannot"
        raise ValueError(f"{subject} run this problem under these demands: {reasons}")
    chosen = min(possible, key=lambda row: considered[row].seconds)
    return Plan(
        call, demands, target, tuple(considered.values()), chosen.name, road(call, chosen, considered[chosen].tile)
    )
