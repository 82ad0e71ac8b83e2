"""Make every algorithm but one raise, so that a test proves which one ran."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

import polyconv as pc
from polyconv.algorithms import ALGORITHMS
from polyconv.planning import make_plan


class WrongRoad(AssertionError):  # noqa: N818 - it is the test that erred, or the library, not the caller
    """An algorithm ran that was not asked for."""


@contextlib.contextmanager
def only(name: str) -> Iterator[list[Any]]:
    """Within this context every algorithm but ``name``, variants included, raises; yields the problems that it ran.

    Tiles may run on any thread and in any order; each is a problem of its own.
    """
    ran: list[Any] = []

    def watched(algorithm: pc.Algorithm) -> pc.Algorithm:
        def run(x: Any, w: Any, problem: Any, xp: Any) -> Any:
            if algorithm.name != name:
                raise WrongRoad(f"{algorithm.name} ran where {name} was asked for")
            ran.append(problem)
            return algorithm.run(x, w, problem, xp)

        def write(x: Any, w: Any, problem: Any, xp: Any, y: Any, *workers: int) -> None:
            if algorithm.name != name:
                raise WrongRoad(f"{algorithm.name} ran where {name} was asked for")
            ran.append(problem)
            algorithm.write(x, w, problem, xp, y, *workers)

        def variants(problem: Any, target: Any) -> tuple[pc.Algorithm, ...]:
            return tuple(map(watched, algorithm.variants(problem, target)))

        return dataclasses.replace(
            algorithm, run=run, write=algorithm.write and write, variants=algorithm.variants and variants
        )

    spied = tuple(map(watched, ALGORITHMS))
    make_plan.cache_clear()  # plans made before would evade the spy, and those made now would outlive it
    try:
        with mock.patch("polyconv.arguments.ALGORITHMS", spied), mock.patch("polyconv.planning.ALGORITHMS", spied):
            yield ran
    finally:
        make_plan.cache_clear()
