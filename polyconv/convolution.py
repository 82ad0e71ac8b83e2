"""One convolution, from arguments that are understood to its result: what the public functions and gradients share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .arguments import Call, Demands, read
from .arrays import Array, in_chunks
from .planning import Plan, make_plan

if TYPE_CHECKING:
    from .chunked import ChunkedPlan

__all__ = ["Planner", "per_block", "planned"]


def planned(x: Any, w: Any, call: Call, demands: Demands) -> Plan | ChunkedPlan:
    """The plan of a call, that of a Dask array's blocks among them."""
    if in_chunks(x) or in_chunks(w):
        from . import chunked  # imports Dask

        return chunked.plan(call, demands, x, w)
    return make_plan(call, demands)


@dataclass(frozen=True)
class Planner:
    """Plans what is asked for by keywords of :func:`polyconv.arguments.read`, under the caller's demands."""

    demands: Demands
    dtype: Any

    def __call__(self, x: Any, w: Any, **meaning: Any) -> Plan | ChunkedPlan:
        """The plan of a convolution of ``x`` with ``w``."""
        return planned(x, w, read(x, w, dtype=self.dtype, **meaning), self.demands)


def per_block(a: Array, function: Callable[[Any], Array], along: tuple[int, ...] | None = None) -> Array:
    """``function(a)``, or of each block of an array in chunks, that has one chunk ``along`` some axes, or all."""
    if not in_chunks(a):
        return function(a)
    from . import chunked

    return chunked.mapped(a, function, along)
