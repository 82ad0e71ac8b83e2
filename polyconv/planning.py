"""Choosing an algorithm, and saying why.

Planning looks at descriptions only. Every algorithm either rejects the problem with a reason or states what it
would cost; the cheapest that keeps to the caller's demands stands. A plan can be printed, kept and called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

from . import pool, rounding, wisdom
from .algorithms import ALGORITHMS, Algorithm, Cost
from .arguments import Call, Demands, check_array, check_bias
from .arrays import Array
from .dtypes import name as dtype_name
from .execution import Road, road, road_workspace
from .prepared import Prepared
from .problem import ConvProblem
from .target import Target
from .tiling import Tile, count, cut, part, units, whole

__all__ = ["Candidate", "Plan", "Way", "candidates", "kernel_gradient", "make_plan"]


@dataclass(frozen=True)
class Candidate:
    """What an algorithm said to a problem: why it cannot, or what it would take.

    Attributes
    ----------
    algorithm
        The algorithm: of several variants, the best.
    seconds
        Predicted time in seconds; ``inf`` where it cannot run.
    flops, traffic
        Predicted arithmetic, and bytes moved to and from memory.
    workspace
        Peak bytes beside the inputs and the result.
    error
        Predicted relative error, root mean square (:mod:`polyconv.rounding`).
    tile
        How many images, how many rows and how many groups it takes at a time.
    workers
        On how many threads tiles are run, or the loops of the one tile that is everything are shared.
    reason
        Why it cannot run the problem or may not under the caller's demands; None where it can.
    measured
        Seconds that it took, where it was measured; else None.
    """

    algorithm: Algorithm
    seconds: float
    flops: int
    traffic: int
    workspace: int
    error: float
    tile: Tile
    workers: int = 1
    reason: str | None = None
    measured: float | None = None

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return self.algorithm.name


@dataclass(frozen=True, eq=False)
class Plan:
    """One convolution made ready: what will run, why, and the means to run it any number of times.

    ``plan(x, w, bias)`` convolves arrays of the shapes, dtypes and library that it was made for;
    ``plan.prepare(w, bias)`` does once what depends on the kernel alone; ``print(plan)`` shows every algorithm with
    its predicted cost or its reason for refusing.

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
        return self.road(x, *self.road.prepare(w, bias))

    def prepare(self, w: Array, bias: Array | None = None) -> Prepared:
        """Do what depends on the kernel alone, once: ``plan.prepare(w, bias)(x)`` is ``plan(x, w, bias)``.

        What comes back keeps nothing of ``w`` and ``bias`` themselves; writing to them later changes no result.
        Raises ValueError or TypeError for arrays that the plan is not for.
        """
        check_array(w, "w", self.call.w)
        if bias is not None:
            check_bias(bias, self.call)
        return Prepared(self.call, self.algorithm, self.road, *self.road.prepare(w, bias, keep=True))

    def __repr__(self) -> str:
        return f"<polyconv.Plan {self.algorithm}: {self.call}>"

    def __str__(self) -> str:
        p = self.call.problem
        lines = [
            str(self.call),
            f"{p.dtype} on {self.target.library} ({self.target.device}), {_quantity(p.macs)} multiply-adds",
            "",
            f"  {'algorithm':<12} {'time':>9} {'flops':>8} {'bytes':>8} {'workspace':>10} {'error':>8}",
        ]
        for candidate in self.candidates:
            mark = ">" if candidate.name == self.algorithm else " "
            cells = [f"{'-':>9} {'-':>8} {'-':>8} {'-':>10} {'-':>8}"]
            if math.isfinite(candidate.seconds):
                cells = [
                    f"{_time(candidate.measured or candidate.seconds):>9}",
                    f"{_quantity(candidate.flops):>8}",
                    f"{_quantity(candidate.traffic):>8}",
                    f"{_bytes(candidate.workspace):>10}",
                    f"{f'{candidate.error:.1e}' if candidate.error else 'exact':>8}",
                ]
            notes = [candidate.algorithm.detail] if math.isfinite(candidate.seconds) else []
            if notes and candidate.algorithm.pairs and self.target.rounds(p.dtype):
                notes.append("products in TF32")
            notes += [candidate.reason or "", self._why(candidate) if mark == ">" else ""]
            note = ", ".join(filter(None, notes))
            lines.append(f"{mark} {candidate.name:<12} {' '.join(cells)}  {note}".rstrip())
        return "\n".join(lines)

    def _why(self, chosen: Candidate) -> str:
        if self.demands.algorithm:
            return "as asked"
        return "least predicted time" if chosen.measured is None else "fastest as measured"


def _quantity(n: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:g}"


def _bytes(n: int) -> str:
    return f"{_quantity(n)}B" if n >= 1000 else f"{n} B"


def _time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


# -- what every algorithm says -------------------------------------------------------------------------------


def _refused(algorithm: Algorithm, call: Call, reason: str) -> Candidate:
    return Candidate(algorithm, math.inf, 0, 0, 0, 0.0, whole(call.problem.padded), reason=reason)


def _inadmissible(algorithm: Algorithm, cost: Cost, call: Call, accuracy: str, target: Target) -> str | None:
    """Why the caller's demand of accuracy forbids a method, which matters only where it is not direct summation."""
    if accuracy == "strict" and algorithm.pairs and target.gpu and target.rounds(call.problem.dtype):
        return f"accuracy='strict' forbids matrix products in TF32, which {target.gpu.rounds} asks for"
    if not cost.spreads or accuracy == "any":
        return None
    if accuracy == "strict":
        return "accuracy='strict' forbids outputs that depend on more than their own windows"
    result, total = (dtype_name(dtype) for dtype in (call.dtypes.result, call.dtypes.total))
    if result != total or total not in rounding.BOUNDS:  # halves, and what is longer than double
        return f"accuracy='fast' admits direct summation alone for {result}"
    if cost.error > (bound := rounding.BOUNDS[total]):
        return f"its predicted error, {cost.error:.1e}, is over the {bound:.0e} that accuracy='fast' admits for {total}"
    return None


def _ways(algorithm: Algorithm, call: Call, demands: Demands, target: Target) -> Iterator[Candidate]:
    """One algorithm, whole or cut into tiles, on one thread or several: what each way costs, or why there is none.

    Beside what callers may ask for, ``accuracy`` may be ``"any"`` here.
    """
    problem = call.problem.padded
    if reason := algorithm.reject(problem, target):
        yield _refused(algorithm, call, reason)
    elif not problem.macs:  # an empty dimension leaves nothing to do
        yield Candidate(algorithm, 0.0, 0, 0, 0, 0.0, whole(problem))
    elif reason := _inadmissible(algorithm, cost := _cost(algorithm, problem, target), call, demands.accuracy, target):
        yield replace(_refused(algorithm, call, reason), error=cost.error)
    else:
        costs = _Costs(algorithm, call, target)
        for tile, workers in _cuts(costs, demands, target):
            yield _way(costs, tile, workers, demands, target)


def _cost(algorithm: Algorithm, p: ConvProblem, target: Target) -> Cost:
    """What an algorithm costs, with the error that it has where matrix products round what they multiply."""
    cost = algorithm.cost(p)
    return replace(cost, error=cost.error + rounding.TF32) if algorithm.pairs and target.rounds(p.dtype) else cost


class _Costs:
    """What an algorithm costs a call: once for its kernel, and for every tile of the image."""

    def __init__(self, algorithm: Algorithm, call: Call, target: Target) -> None:
        self.algorithm, self.call, self.target = algorithm, call, target
        self.pads = algorithm.pads(call.problem)
        as_it_is = call.x.dtype == call.dtypes.total
        self.units = units(algorithm, call.problem.local, call.dtypes, target.workers) if as_it_is else 0
        self.problem = call.problem if self.pads else call.problem.padded
        make = algorithm.prepare_cost
        self.once = Cost(traffic=0, runs=0, calls=0, workspace=0) if make is None else make(self.problem.padded)

    def of(self, tile: Tile) -> Cost:
        """What one tile costs; one of several has margins of its own, is cast, and its result copied to its place."""
        cost = _cost(self.algorithm, here := part(self.problem, tile, self.pads), self.target)
        if tile == whole(self.problem):
            return cost
        dtypes, p = self.call.dtypes, self.call.problem
        margins = any(map(any, p.local.padding)) and not self.pads
        cast = not self.algorithm.takes(self.call.x.dtype, dtypes.total)
        image = here.image_elements * here.itemsize * (margins + cast)
        made = self.algorithm.write is None or dtypes.result != dtypes.total
        result = here.output_elements * here.itemsize * made
        workspace = cost.workspace + image + result * (1 + (dtypes.result != dtypes.total))
        rows = here.image_elements // here.padded_size[-1] // (here.channels if here.channels_last else 1)
        return replace(
            cost,
            traffic=cost.traffic + 2 * (image + result),
            workspace=workspace,
            runs=cost.runs + rows * (margins + cast),
            calls=cost.calls + 4 + 3 * margins,
        )

    def beside(self, cut: bool) -> int:
        """Bytes that no tile holds, whether the image is ``cut``: the prepared kernel, and what the road needs."""
        return self.once.kept + road_workspace(self.call, self.algorithm, cut)


def _cuts(costs: _Costs, demands: Demands, target: Target) -> Iterable[tuple[Tile, int]]:
    """The tiles worth a thought, each with a number of workers: the whole image, and what suits caches and memory."""
    problem, rates = costs.problem, target.rates
    in_one = whole(problem), 1
    if not target.tiled:
        return [in_one]
    ways: list[tuple[Tile, int]] = []
    entire, all_of_it = costs.algorithm.cost(problem), costs.of(whole(problem))
    limit = _limit(demands) - costs.beside(cut=True)
    comfortable = max(rates.most - costs.once.kept, rates.most // 2)
    wanted = comfortable  # loops that write in place keep to the caches by themselves
    if costs.algorithm.write is None or costs.algorithm.stores:
        wanted = target.tile_bytes(entire, max(costs.once.kept, problem.kernel_elements * problem.itemsize))
    grain = entire.grain
    for workers in sorted({1, target.workers}):
        for turns in (1,) if workers == 1 else (1, 4):

            def held(tile: Tile, workers: int = workers, least: int = workers * turns) -> float:
                """Bytes of all workers' tiles, or none where there are too few tiles for them."""
                return workers * costs.of(tile).workspace if count(problem, tile) >= least else math.inf

            most = min(workers * wanted, comfortable, limit)
            few = problem.batch < workers * turns and problem.groups > 1
            ways += [(cut(problem, held, most, grain, by_groups), workers) for by_groups in {False, few}]
    if costs.units > 1 and target.workers > 1 and _shared(all_of_it, target.workers) <= min(comfortable, limit):
        ways.append((whole(problem), target.workers))
    # What holds more than is comfortable is cut wherever it can be, however quick it would be in one.
    too_large = all_of_it.workspace + costs.beside(cut=False) - costs.once.kept > comfortable
    others = {*ways} - {in_one}
    return dict.fromkeys(ways if too_large and others else [in_one, *ways])


def _shared(cost: Cost, workers: int) -> int:
    """Bytes that an algorithm holds whose loops so many threads share."""
    return cost.workspace + (workers - 1) * cost.each


def _limit(demands: Demands) -> float:
    return math.inf if demands.max_workspace is None else demands.max_workspace


def _way(costs: _Costs, tile: Tile, workers: int, demands: Demands, target: Target) -> Candidate:
    """One way to run an algorithm, with its predicted cost."""
    problem, once, cost = costs.problem, costs.once, costs.of(tile)
    tiles, alone = count(problem, tile), workers == 1
    turns = -(-tiles // workers)
    waiting = 0.0
    if not alone:  # threads are woken, and wait for Python itself, which loops need but to begin
        python = (tiles - turns) * cost.calls * (target.call_seconds + pool.SECONDS_ASLEEP)
        waiting = pool.SECONDS_AWAKE if cost.loop_slots else pool.SECONDS + python
    working = turns * target.seconds(cost, problem.dtype, alone)
    at_once = min(workers, tiles) * cost.workspace
    if not alone and tiles == 1 and costs.units > 1:  # shared by as many as have a processor
        members = min(workers, target.cores, costs.units)
        waiting, working = pool.SECONDS_SHARED, working * -(-costs.units // members) / costs.units
        at_once = _shared(cost, workers)
    ahead = 0.0 if demands.prepared else target.seconds(once, problem.dtype, alone=True)
    workspace = costs.beside(tile != whole(problem)) + max(at_once, once.workspace - once.kept)
    return Candidate(
        costs.algorithm,
        ahead + working + waiting,
        flops=once.flops + tiles * cost.flops,
        traffic=once.traffic + tiles * cost.traffic,
        workspace=workspace,
        error=cost.error,
        tile=tile,
        workers=workers,
        reason=None
        if workspace <= _limit(demands)
        else f"needs {workspace} bytes, more than max_workspace={demands.max_workspace}",
    )


def _variants(algorithm: Algorithm, call: Call, demands: Demands, target: Target) -> list[Candidate]:
    """All ways of all variants of an algorithm."""
    problem = call.problem.local
    variants = algorithm.variants(problem, target) if algorithm.variants and problem.macs else (algorithm,)
    return [way for variant in variants for way in _ways(variant, call, demands, target)]


def _fits(candidate: Candidate) -> bool:
    return candidate.reason is None


def _merit(way: Candidate) -> tuple[int, float]:
    """The quickest way comes first; where none fits, the one that needs least memory, and then those refused."""
    if _fits(way):
        return 0, way.seconds
    return (1, way.workspace) if math.isfinite(way.seconds) else (2, 0)


def quickest(algorithm: Algorithm, call: Call, demands: Demands, target: Target) -> Candidate:
    """The quickest way of one algorithm, whatever its error. Raises ValueError where it has none."""
    way = min(_ways(algorithm, call, replace(demands, accuracy="any"), target), key=_merit)
    if not _fits(way):
        raise ValueError(f"algorithm={algorithm.name!r} cannot run this problem: {way.reason}")
    return way


def candidates(call: Call, demands: Demands, target: Target) -> dict[str, list[Candidate]]:
    """What every algorithm says in all its variants and ways, by name; an algorithm of the caller's replaces its like.

    What is asked for by name need not keep to an error bound, but does where a variant of it can; if none can, the
    most accurate stands.
    """
    rows, asked = {row.name: row for row in ALGORITHMS}, demands.algorithm
    if asked is not None:
        rows[asked.name] = asked
    found = {name: _variants(row, call, demands, target) for name, row in rows.items()}
    if asked is not None and demands.accuracy == "fast" and not any(map(_fits, found[asked.name])):
        ways = _variants(asked, call, replace(demands, accuracy="any"), target)
        least = min((way.error for way in ways if _fits(way)), default=0.0)
        found[asked.name] = [way for way in ways if way.error == least or not _fits(way)]
    return found


@wisdom.heeding
def make_plan(call: Call, demands: Demands) -> Plan:
    """The plan for a call. Raises ValueError where the named algorithm, or every one, cannot run it."""
    target, asked = Target.of(call.x, demands.workers), demands.algorithm
    ways = candidates(call, demands, target)
    best = {name: min(some, key=_merit) for name, some in ways.items()}
    wanted = list(best.values()) if asked is None else [best[asked.name]]
    if not any(map(_fits, wanted)):
        if asked is not None:
            raise ValueError(f"algorithm={asked.name!r} cannot run this problem: {wanted[0].reason}")
        least, *others = sorted(wanted, key=_merit)  # some algorithms take any problem, so that memory alone is lacking
        reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in others)
        raise ValueError(
            f"no algorithm can run this problem in max_workspace={demands.max_workspace} bytes: the least is "
            f"{least.name}, with {least.workspace} bytes; {reasons}"
        )
    chosen = min(filter(_fits, wanted), key=lambda way: way.seconds)
    if asked is None and (choice := wisdom.recall(call, demands, target)) is not None:
        measured = choice.among([way for way in ways[choice.algorithm] if _fits(way)])
        if measured is not None:
            chosen = best[measured.name] = replace(measured, measured=choice.seconds)
    return Plan(
        call,
        demands,
        target,
        tuple(best.values()),
        chosen.name,
        road(call, chosen.algorithm, chosen.tile, chosen.workers, chosen.workspace),
    )


# -- the kernel's gradient -----------------------------------------------------------------------------------


class Way(NamedTuple):
    """An algorithm's own way to the kernel's gradient: what runs, and its predicted time.

    ``workers`` threads take parts of an axis, the number ``axis`` of batch, groups and channels, which is ``shared``.
    """

    run: Callable[[Array, Array, ConvProblem, ModuleType], Array]
    seconds: float
    workers: int
    axis: int
    shared: int


def kernel_gradient(p: ConvProblem, target: Target, demands: Demands) -> Way | None:
    """The quickest way to the kernel's gradient that an algorithm has beside the convolution that it is, or None."""
    asked = ALGORITHMS if demands.algorithm is None else (demands.algorithm,)
    rows = [one for row in asked for one in (row.variants(p.padded, target) if row.variants and p.macs else (row,))]
    shared, many = (p.batch, p.groups, p.channels), target.workers
    # Sums over images apiece have to be added up, which should be little beside the images themselves.
    least = (many if p.kernel_elements <= p.image_elements + p.output_elements else p.batch + 1, many, many)
    axis = next((axis for axis in range(3) if shared[axis] >= least[axis]), 0)
    ways = []
    for row in rows:
        if not p.macs or row.kernel_grad is None or row.kernel_grad_cost is None or row.reject(p.padded, target):
            continue
        cost = row.kernel_grad_cost(p)
        for workers in {1, min(many, shared[axis])}:
            each = p.kernel_elements + p.output_elements * (axis == 2)  # of channels, all see the whole gradient
            if cost.workspace + (workers - 1) * each * p.itemsize <= _limit(demands):
                waiting = 0.0 if workers == 1 else pool.SECONDS_AWAKE
                seconds = target.seconds(cost, p.dtype, alone=workers == 1) / workers + waiting
                ways.append(Way(row.kernel_grad, seconds, workers, axis, shared[axis]))
    return min(ways, key=lambda way: way.seconds, default=None)
