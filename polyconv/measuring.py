"""Choosing by the clock: the ways that promise to be quick are run, and the quickest is remembered."""

from __future__ import annotations

import statistics
import time

from . import wisdom
from .arguments import Call, Demands
from .arrays import random, synchronize
from .execution import road
from .planning import Candidate, Plan, candidates, make_plan
from .target import Target

__all__ = ["measured_plan"]

_HOPELESS = 5.0  # times the least predicted time; predictions are wrong by two or three
_MOST = 12  # ways that are tried
_TURNS = 5
_PATIENCE = 2.0  # seconds of turns after which nothing new is begun


def measured_plan(call: Call, demands: Demands) -> Plan:
    """The plan of the way that is found fastest, on random arrays like the caller's, unless that is known already."""
    plan = make_plan(call, demands)
    if demands.algorithm is not None or not call.problem.macs or wisdom.recall(call, demands, plan.target):
        return plan
    if call.x.device is None:
        raise ValueError("measure=True needs a device to run on, and inside a transformation x has none yet")
    fastest, seconds = _race(_hopeful(call, demands, plan.target), call)
    choice = wisdom.Choice(fastest.name, fastest.algorithm.detail, fastest.tile, fastest.workers, seconds)
    wisdom.remember(call, demands, plan.target, choice)
    return make_plan(call, demands)


def _hopeful(call: Call, demands: Demands, target: Target) -> list[Candidate]:
    """The ways worth a try, those of least predicted time first."""
    ways = [way for some in candidates(call, demands, target).values() for way in some if way.reason is None]
    ways.sort(key=lambda way: way.seconds)
    return [way for way in ways if way.seconds <= _HOPELESS * ways[0].seconds][:_MOST]


def _race(ways: list[Candidate], call: Call) -> tuple[Candidate, float]:
    """The fastest of several ways, run in turns so that a disturbance meets all alike, and its median time."""
    x, w = random(call.x), random(call.w)
    runs = []
    for way in ways:
        one = road(call, way.algorithm, way.tile, way.workers)
        runs.append((one, one.prepare(w, None)))
    turns: list[list[float]] = [[] for _ in ways]
    for turn in range(_TURNS + 1):
        for (one, prepared), times in zip(runs, turns, strict=True):
            start = time.perf_counter()
            synchronize(one(x, *prepared))
            if turn:  # the first one warms up
                times.append(time.perf_counter() - start)
        if sum(map(sum, turns)) > _PATIENCE:
            break
    medians = [statistics.median(times) for times in turns]
    best = min(range(len(ways)), key=medians.__getitem__)
    return ways[best], medians[best]
