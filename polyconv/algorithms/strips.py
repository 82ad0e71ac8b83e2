"""Direct convolution on a GPU: each thread sums a strip of outputs of a few filters in its registers.

The kernel is ``polyconv/cuda/direct.cu``. It is for what a matrix product does badly: one filter per channel, or few
filters. Taps along the strip's axis are unrolled, so that a pixel is loaded once for all of them; the zeros around the
image are never read, and either layout is read and written in place.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, device, new
from ..cuda import kernels
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["STRIPS"]

_MOST_TAPS = 64  # of one axis, unrolled
_THREADS = 128  # of a block
_BUSY = 2**15  # threads that keep a large GPU busy; where there are fewer, the rest of it has nothing to do
_LOAD = 4  # multiply-adds that could be done in the time of a load


class _Strip(NamedTuple):
    """Along which axis strips lie, their outputs and filters, and whether neighbouring threads have other groups."""

    along: int
    outputs: int
    filters: int
    groups_fastest: bool


def _strip(p: ConvProblem) -> _Strip:
    """The strip for a problem; what follows from the kernel alone does not depend on batch, size and padding."""
    fastest = p.channels_last and p.groups > 1
    # Neighbouring threads read neighbours in memory, so strips lie along another axis than those.
    along = p.ndim - 1 if fastest else max(p.ndim - 2, 0)
    filters = next(n for n in (1, 2, 4, 8, 16) if n >= min(p.filters, 16))
    longest = 8 if p.kernel[along] > 8 and filters < 8 else 4
    return _Strip(along, max(n for n in (1, 2, 4, 8) if n <= min(longest, p.output_size[along])), filters, fastest)


def _sets(p: ConvProblem, strip: _Strip) -> int:
    return -(-p.filters // strip.filters)


def _threads(p: ConvProblem, strip: _Strip) -> int:
    strips = p.positions // p.output_size[strip.along] * -(-p.output_size[strip.along] // strip.outputs)
    return p.batch * p.groups * _sets(p, strip) * strips


def _prepare(w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """A kernel ``(G, K, C, *kernel)`` in the order of the loops, with zeros for filters that fill up the last set."""
    strip = _strip(p)
    sets = _sets(p, strip)
    filled = xp.zeros((p.groups, sets * strip.filters, *w.shape[2:]), dtype=w.dtype, device=device(w))
    filled[:, : p.filters] = w
    filled = xp.reshape(filled, (p.groups, sets, strip.filters, *w.shape[2:]))
    others = (axis + 4 for axis in range(p.ndim) if axis != strip.along)
    order = (1, 3, *others, strip.along + 4, 2)
    order = (*order, 0) if strip.groups_fastest else (0, *order)
    return xp.reshape(xp.permute_dims(filled, order), (-1,))


def _write(x: Array, kernel: Array, p: ConvProblem, xp: ModuleType, y: Array) -> None:
    """Convolve into ``y``, whatever the steps of either."""
    strip, (x, x_steps) = _strip(p), kernels.near(x)
    constants = (
        *kernels.types(x, p, y),
        ("AXES", p.ndim),
        ("ALONG", strip.along),
        ("TAPS", p.kernel[strip.along]),
        ("STRIDE", p.stride[strip.along]),
        ("DILATION", p.dilation[strip.along]),
        ("STRIP", strip.outputs),
        ("FILTERS", strip.filters),
        ("GROUPS_FASTEST", strip.groups_fastest),
    )
    run = kernels.kernel("direct", "direct", constants, xp)
    geometry = _geometry(p, x_steps, kernels.steps(y))
    run((-(-_threads(p, strip) // _THREADS),), (_THREADS,), (x, kernel, y, geometry))


@lru_cache(maxsize=64)
def _geometry(p: ConvProblem, x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Any:
    """The kernel's ``Geometry``."""
    lows = [low for low, _ in p.padding]
    return kernels.by_value(
        _threads(p, _strip(p)), p.groups, p.filters, p.channels, *x_steps, *y_steps,
        *p.size, *p.output_size, *p.kernel, *p.stride, *p.dilation, *lows,
    )  # fmt: skip


def _run(x: Array, kernel: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The loops of the definition, those over a strip's outputs, taps and filters unrolled, into a new array."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _write(x, kernel, problem, xp, y)
    return y


def _cost(p: ConvProblem) -> Cost:
    strip = _strip(p)
    taps = p.kernel[strip.along]
    span = (strip.outputs - 1) * p.stride[strip.along] + (taps - 1) * p.dilation[strip.along] + 1
    weights = taps * strip.filters
    each = strip.outputs * weights + _LOAD * (min(span, strip.outputs * taps) + weights)
    return Cost(
        other_flops=2 * p.macs,
        loop_slots=max(_threads(p, strip), _BUSY) * p.channels * p.taps // taps * each,
        traffic=(p.image_elements * _sets(p, strip) + p.output_elements) * p.itemsize,
        runs=0,
        calls=1,
        workspace=0,
        error=direct(p),
    )


def _prepare_cost(p: ConvProblem) -> Cost:
    strip = _strip(p)
    kept = p.groups * _sets(p, strip) * strip.filters * p.channels * p.taps * p.itemsize
    return Cost(traffic=4 * kept, runs=0, calls=4, workspace=2 * kept, kept=kept)


def _reject(p: ConvProblem, target: Target) -> str | None:
    if reason := kernels.reject(p, target, "direct"):
        return reason
    if p.macs and (taps := p.kernel[_strip(p).along]) > _MOST_TAPS:
        return f"direct unrolls at most {_MOST_TAPS} taps of an axis, and here there are {taps}"
    return None


STRIPS = Algorithm(
    "direct",
    _run,
    _cost,
    _reject,
    _prepare,
    _prepare_cost,
    "CUDA",
    write=_write,
    absorbs=lambda problem: True,
    casts=kernels.casts,
)
