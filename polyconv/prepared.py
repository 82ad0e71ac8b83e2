"""A convolution whose kernel is ready: what depends on it alone has been computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .arguments import Call, check_array
from .arrays import Array
from .execution import Road

__all__ = ["Prepared"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with its kernel and bias; ``prepared(x)`` convolves images. Made by :meth:`polyconv.Plan.prepare`.

    Attributes
    ----------
    call
        The arguments of the plan, canonical.
    algorithm
        The name of the algorithm that runs.
    """

    call: Call
    algorithm: str
    road: Road
    kernel: Any
    bias: Array | None

    def __call__(self, x: Array) -> Array:
        """Convolve ``x``. Raises ValueError or TypeError for an array that the plan is not for."""
        check_array(x, "x", self.call.x)
        return self.road(x, self.kernel, self.bias)

    def __repr__(self) -> str:
        return f"<polyconv.Prepared {self.algorithm}: {self.call}>"
