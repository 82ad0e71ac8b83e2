"""One convolution, from arguments that are understood to its result: what the public functions and gradients share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .arguments import Call, Demands, read
from .arrays import Array, in_chunks
from .planning import Plan, make_plan

if TYPE_CHECKING:
    from .chunked import ChunkedPlan

__all__ = ["convolve", "per_block", "planned"]


def planned(x: Any, w: Any, call: Call, demands: Demands) -> Plan | ChunkedPlan:
    """The plan of a call, that of a Dask array's blocks among them."""
    if in_chunks(x) or in_chunks(w):
        from . import chunked  # imports Dask

        return chunked.plan(call, demands, x, w)
    return make_plan(call, demands)


def convolve(x: Array, w: Array, bias: Array | None, demands: Demands, **meaning: Any) -> Array:
    """Convolve; ``meaning`` are the keywords of :func:`polyconv.arguments.read`."""
    return planned(x, w, read(x, w, **meaning), demands).run(x, w, bias)


def per_block(a: Array, function: Callable[[Any], Array], along: tuple[int, ...] | None = None) -> Array:
    """``function(a)``, or of each block of an array in chunks, that has one chunk ``along`` some axes, or all."""
    if not in_chunks(a):
        return function(a)
    from . import chunked

    return chunked.mapped(a, function, along)
