"""Direct convolution on a GPU: each thread sums a strip of outputs of a few filters in its registers.

The kernel is ``polyconv/cuda/direct.cu``. It is for what a matrix product does badly: one filter per channel, or few
filters. Taps along the strip's axis are unrolled, so that a pixel is loaded once for all of them; the zeros around the
image are never read, and either layout is read and written in place.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array, address, contiguous, device, new
from ..cuda import kernels
from ..problem import ConvProblem
from ..rounding import direct
from .base import Algorithm, Cost

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["STRIPS"]

_MOST_TAPS = 64  # of one axis, unrolled
_MOST_FILTERS = 64  # bytes of their weights of one tap
_THREADS = 128  # of a block
_BUSY = 2**15  # threads that keep a large GPU busy; fewer make less each, or leave the rest of it with nothing to do
_GROUP, _FILTER = 1, 2  # axes of arrays
_MOVE, _ROW, _THREAD = 5, 12, 150  # instructions that find a pack, a row, a thread's outputs
_WARP, _LINE = 32, 128  # threads that move at once, and bytes of memory that a multiprocessor moves for them in a cycle
_BEGUN = 4  # instructions that it begins for as many in a cycle


class _Strip(NamedTuple):
    """What a thread makes: outputs along an axis, of filters of neighbouring groups.

    ``groups_fastest`` says whether neighbouring threads have other groups, and ``weights`` how many lie together of
    one tap and one group: of its filters, filled up to numbers that are loaded at once.
    """

    along: int
    outputs: int
    filters: int
    groups: int
    groups_fastest: bool
    weights: int

    def sets(self, p: ConvProblem) -> int:
        """Threads that share the filters of a group."""
        return -(-p.filters // self.filters)

    def threads(self, p: ConvProblem) -> int:
        """Threads of a problem."""
        strips = p.positions // p.output_size[self.along] * -(-p.output_size[self.along] // self.outputs)
        return p.batch * p.groups // self.groups * self.sets(p) * strips


def _strip(p: ConvProblem) -> _Strip:
    """The strip for a problem; filters and weights, and hence the order of the kernel, follow from the kernel alone."""
    widest = kernels.WIDEST // p.itemsize
    fastest = p.channels_last and p.groups > 1
    # Neighbouring threads read neighbours in memory, so strips lie along another axis than those.
    along = p.ndim - 1 if fastest else max(p.ndim - 2, 0)
    filters = -(-p.filters // -(-p.filters // (_MOST_FILTERS // p.itemsize)))  # all sets about alike
    piece = min(widest, 2 ** (filters - 1).bit_length())
    groups = math.gcd(p.groups, widest) if fastest and p.channels == p.filters == 1 else 1
    longest = 8 if filters < 8 and (p.kernel[along] > 8 or (filters <= widest and not fastest)) else 4
    if p.output_elements // (filters * groups * longest) < _BUSY:
        groups, longest = 1, 4
    outputs = max(n for n in (1, 2, 4, 8) if n <= min(longest, p.output_size[along]))
    return _Strip(along, outputs, filters, groups, fastest, -(-filters // piece) * piece)


def _filled(w: Array, axis: int, length: int, xp: ModuleType) -> Array:
    """``w`` with zeros behind it along an axis, where it is shorter."""
    if w.shape[axis] == length:
        return w
    filled = xp.zeros((*w.shape[:axis], length, *w.shape[axis + 1 :]), dtype=w.dtype, device=device(w))
    filled[(*(slice(None),) * axis, slice(w.shape[axis]))] = w
    return filled


def _prepare(w: Array, p: ConvProblem, xp: ModuleType) -> Array:
    """A kernel ``(G, K, C, *kernel)`` in the order of the loops, with zeros for filters that fill up a set."""
    strip = _strip(p)
    sets = strip.sets(p)
    w = _filled(w, 1, sets * strip.filters, xp)
    w = _filled(xp.reshape(w, (p.groups, sets, strip.filters, *w.shape[2:])), 2, strip.weights, xp)
    others = (axis + 4 for axis in range(p.ndim) if axis != strip.along)
    order = (1, 3, *others, strip.along + 4)
    order = (*order, 0, 2) if strip.groups_fastest else (0, *order, 2)
    w = contiguous(xp.permute_dims(w, order))
    return xp.asarray(w, copy=True) if address(w) % kernels.WIDEST else w  # a view, which begins anywhere


def _write(x: Array, kernel: Array, p: ConvProblem, xp: ModuleType, y: Array) -> None:
    """Convolve into ``y``, whatever the steps of either."""
    strip, (x, x_steps), y_steps, widest = _strip(p), kernels.near(x), kernels.steps(y), kernels.WIDEST // p.itemsize
    if any(kernels.together(a, a.shape, steps, _GROUP, strip.groups) == 1 for a, steps in ((x, x_steps), (y, y_steps))):
        strip = strip._replace(groups=1)
    constants = (
        *kernels.types(x, p, y),
        ("AXES", p.ndim),
        ("ALONG", strip.along),
        ("KERNEL", p.kernel),
        ("STRIDE", p.stride[strip.along]),
        ("DILATION", p.dilation[strip.along]),
        ("STRIP", strip.outputs),
        ("FILTERS", strip.filters),
        ("GROUPS_FASTEST", strip.groups_fastest),
        ("VECTOR", strip.groups),
        ("WEIGHTS", max(strip.groups, strip.weights)),
        ("STORE", kernels.together(y, y.shape, y_steps, _FILTER, math.gcd(strip.filters, widest))),
    )
    run = kernels.kernel("direct", "direct", constants, xp)
    threads = strip.threads(p)
    run((-(-threads // _THREADS),), (_THREADS,), (x, kernel, y, _geometry(p, threads, x_steps, y_steps)))


@lru_cache(maxsize=64)
def _geometry(p: ConvProblem, threads: int, x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Any:
    """The kernel's ``Geometry``."""
    lows = [low for low, _ in p.padding]
    return kernels.by_value(
        threads, p.groups, p.filters, p.channels, *x_steps, *y_steps,
        *p.size, *p.output_size, *p.stride, *p.dilation, *lows,
    )  # fmt: skip


def _run(x: Array, kernel: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The loops of the definition, those over a strip's outputs, taps and filters unrolled, into a new array."""
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _write(x, kernel, problem, xp, y)
    return y


def _cycles(step: int, p: ConvProblem) -> int:
    """Cycles of a move of packs that neighbouring threads have so many elements apart: one for each line of memory."""
    return min(_WARP, max(1, -(-_WARP * step * p.itemsize // _LINE)))


def _cost(p: ConvProblem) -> Cost:
    strip = _strip(p)
    taps, outputs = p.kernel[strip.along], strip.outputs
    pieces = -(-strip.weights * p.itemsize // kernels.WIDEST)
    stored = strip.filters if not p.channels_last else pieces
    span = min((outputs - 1) * p.stride[strip.along] + (taps - 1) * p.dilation[strip.along] + 1, outputs * taps)
    # How far apart neighbouring threads have their pixels, weights and outputs.
    if strip.groups_fastest:
        steps = strip.groups * p.channels, strip.groups * strip.weights, strip.groups * p.filters
    else:
        inner = (p.groups * p.channels, p.groups * p.filters) if p.channels_last else (1, 1)
        ahead = outputs if strip.along == p.ndim - 1 else 1
        steps = inner[0] * p.stride[-1] * ahead, 0, inner[1] * ahead
    pixel, weight, output = (_cycles(step, p) for step in steps)
    rows = p.channels * (p.taps // taps)
    products = rows * taps * outputs * strip.filters * strip.groups
    others = rows * (_MOVE * (span + taps * pieces) + _ROW) + _MOVE * outputs * stored + _THREAD
    moved = rows * (span * pixel + taps * pieces * weight) + outputs * stored * output
    each = max(kernels.slots(p, products, others), kernels.slots(p, 0, _BEGUN * moved))
    return Cost(
        other_flops=2 * p.macs,
        loop_slots=int(max(strip.threads(p), _BUSY) * each),
        traffic=(p.image_elements * strip.sets(p) + p.output_elements) * p.itemsize,
        runs=0,
        calls=1,
        workspace=0,
        error=direct(p),
    )


def _prepare_cost(p: ConvProblem) -> Cost:
    strip = _strip(p)
    fills = (strip.sets(p) * strip.filters > p.filters) + (strip.weights > strip.filters)
    kept = p.groups * strip.sets(p) * strip.weights * p.channels * p.taps * p.itemsize
    workspace = kept * (1 + fills)
    return Cost(traffic=2 * workspace, runs=0, calls=1 + 2 * fills, workspace=workspace, kept=kept)


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
