"""Choosing an algorithm, and saying why.

Planning looks at descriptions only. Every algorithm either rejects the problem with a reason or states what it
would cost; the cheapest that keeps to the caller's demands stands. A plan can be printed, kept and called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from .algorithms import ALGORITHMS, Algorithm, Cost
from .arguments import Call, Demands, check_array, check_bias
from .arrays import Array
from .execution import Road, road, road_workspace
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

    @property
    def chosen(self) -> Candidate:
        """The candidate that will run: its predicted time, its workspace, its tile."""
        return next(candidate for candidate in self.candidates if candidate.name == self.algorithm)

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
    if reason := algorithm.reject(problem):
        return Candidate(algorithm.name, math.inf, 0, whole(problem), reason)
    if not problem.macs:  # an empty dimension leaves nothing to do
        return Candidate(algorithm.name, 0.0, 0, whole(problem))

    def cost_of(tile: Tile) -> Cost:
        """What one tile costs; one of several has its result copied to its place."""
        cost = algorithm.cost(part(problem, tile))
        if tile == whole(problem):
            return cost
        result = part(problem, tile).output_elements * problem.itemsize
        return replace(cost, traffic=cost.traffic + 2 * result, workspace=cost.workspace + result)

    def seconds(tile: Tile) -> float:
        return count(problem, tile) * target.seconds(cost_of(tile), problem.dtype)

    beside = road_workspace(call)
    limit = math.inf if demands.max_workspace is None else demands.max_workspace - beside
    tiles = [whole(problem)]
    if target.tiled:
        wanted = target.tile_bytes(problem.kernel_elements * problem.itemsize)
        tiles.append(cut(problem, lambda tile: cost_of(tile).workspace, min(wanted, limit)))
        if cost_of(tiles[0]).workspace > target.rates.most:
            del tiles[0]  # however quick it would be
    within = [tile for tile in tiles if cost_of(tile).workspace <= limit]
    tile = min(within or tiles[-1:], key=seconds)
    held = cost_of(tile).workspace + beside
    over = None if within else f"needs {held} bytes, more than max_workspace={demands.max_workspace}"
    return Candidate(algorithm.name, seconds(tile), held, tile, over)


@lru_cache(maxsize=1024)
def make_plan(call: Call, demands: Demands) -> Plan:
    """The plan for a call. Raises ValueError where the named algorithm, or every one, cannot run it."""
    target, asked = Target.of(call.x), demands.algorithm
    rows = ALGORITHMS if asked is None or asked in ALGORITHMS else (*ALGORITHMS, asked)
    considered = {row: _consider(row, call, demands, target) for row in rows}
    wanted = considered if asked is None else {asked: considered[asked]}
    possible = [row for row, candidate in wanted.items() if candidate.reason is None]
    if not possible:
        if asked is not None:
            raise ValueError(f"algorithm={asked.name!r} cannot run this problem: {considered[asked].reason}")
        reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in wanted.values())
        raise ValueError(f"no algorithm can run this problem: {reasons}")
    chosen = min(possible, key=lambda row: considered[row].seconds)
    return Plan(
        call, demands, target, tuple(considered.values()), chosen.name, road(call, chosen, considered[chosen].tile)
    )
