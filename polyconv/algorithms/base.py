"""What every algorithm is: a record of pure functions over a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..arrays import Array
from ..problem import ConvProblem

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["Algorithm", "Cost", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an algorithm spends on a problem, in units that no machine enters.

    Attributes
    ----------
    matmul_macs
        Multiply-accumulate operations done inside matrix products.
    loop_slots
        Multiply-adds that compiled loops could do in their time, in one thread: all lanes of all vectors, used or not.
    fft_flops
        Arithmetic done inside Fourier transforms, as real operations.
    other_flops
        Arithmetic done elsewhere, whose time is that of its ``traffic`` or of its ``loop_slots``.
    traffic
        Bytes that array operations outside the matrix products read and write, and that the products read.
    runs
        Inner loops that those operations start: a strided copy moves one stretch of memory after another, and
        short stretches cost more than their bytes.
    calls
        Array operations (or Python-level element operations), each of which costs its library's overhead.
    workspace
        Peak bytes held at once beside the inputs and the result.
    each
        Bytes of those that every thread needs for itself where threads share loops.
    kept
        Bytes of those that stay when it is done: what a prepared kernel holds.
    error
        Predicted error, as :mod:`polyconv.rounding` means it.
    spreads
        Whether a value of the image, a NaN say, may reach outputs whose windows do not hold it.
    grain
        How many output rows are made together; tiles are best cut in multiples of it.
    """

    traffic: int
    runs: int
    calls: int
    workspace: int
    matmul_macs: int = 0
    loop_slots: int = 0
    fft_flops: int = 0
    other_flops: int = 0
    each: int = 0
    kept: int = 0
    error: float = 0.0
    spreads: bool = False
    grain: int = 1

    @property
    def flops(self) -> int:
        """All arithmetic; in complex numbers, a product or sum of two counts as one."""
        return 2 * self.matmul_macs + self.fft_flops + self.other_flops


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to convolve.

    Attributes
    ----------
    name
        The name the literature knows it by.
    run
        ``run(x, kernel, problem, xp) -> y``, pure, over the Array API namespace ``xp``. ``x`` is the padded image
        ``(N, G, C, *size)``; ``kernel`` is ``(G, K, C, *kernel)``, both of ``problem.dtype``, or what ``prepare``
        makes of it; ``y`` is ``(N, G, K, *output_size)``, a new array of the same dtype. No dimension is empty. The
        axes always stand in this order; in memory, channels are innermost where ``problem.channels_last`` says so.
    write
        ``write(x, kernel, problem, xp, y)``: the same, into a ``y`` that is there; None where results come out new.
    shares
        ``shares(problem, workers) -> units``: how many units the loops of ``write`` have, of which so many threads can
        draw parts; it then takes their number, ``write(..., y, workers)``. Zero where there are none, None for never.
    stores
        Whether it stores something on its way that had better stay in cache, though it has a ``write``: it is then cut
        into tiles that do, and writes where each of them belongs.
    absorbs
        ``absorbs(problem) -> bool``: whether it adds the zeros around the image by itself. It is then handed the image
        without them, and a problem that says how many there are. None for never.
    casts
        ``casts(dtype) -> bool``: whether images, and results that it writes into, may be of a dtype other than that of
        sums, ``problem.dtype``. None for never.
    pairs
        Whether its products are of two matrices, and not of batches of them: those alone does CuPy round when it is
        told to.
    cost
        ``cost(problem) -> Cost`` of one run, of an image that carries its margins. Looks at integers only, none of them
        zero.
    reject
        ``reject(problem, target) -> reason or None``: why this algorithm cannot run the problem there, to be read
        after "cannot run this problem:".
    prepare
        ``prepare(w, problem, xp) -> kernel``: what depends on the kernel alone, done once for any number of images
        and parts of images: it must suit problems that differ in batch, size and padding alone. None where there is
        nothing to do.
    prepare_cost
        ``prepare_cost(problem) -> Cost`` of that.
    detail
        What tells this algorithm from others of its name: the size of its tile, say.
    kernel_grad
        ``kernel_grad(x, dy, problem, xp) -> dw``: the gradient with respect to the kernel, where the method has a way
        of its own to it, compiled, and not the convolution that it is. ``dy``, ``(N, G, K, *output_size)``, is that
        with respect to the result, ``dw`` is ``(G, K, C, *kernel)``, and ``x`` comes without the zeros around it.
    kernel_grad_cost
        ``kernel_grad_cost(problem) -> Cost`` of that.
    variants
        ``variants(problem, target) -> algorithms`` of this name among which planning chooses there; None where this is
        the only one.
    """

    name: str
    run: Callable[[Array, Any, ConvProblem, ModuleType], Array]
    cost: Callable[[ConvProblem], Cost]
    reject: Callable[[ConvProblem, Target], str | None]
    prepare: Callable[[Array, ConvProblem, ModuleType], Any] | None = None
    prepare_cost: Callable[[ConvProblem], Cost] | None = None
    detail: str = ""
    write: Callable[..., None] | None = None
    shares: Callable[[ConvProblem, int], int] | None = None
    stores: bool = False
    absorbs: Callable[[ConvProblem], bool] | None = None
    casts: Callable[[str], bool] | None = None
    pairs: bool = False
    kernel_grad: Callable[[Array, Array, ConvProblem, ModuleType], Array] | None = None
    kernel_grad_cost: Callable[[ConvProblem], Cost] | None = None
    variants: Callable[[ConvProblem, Target], tuple[Algorithm, ...]] | None = None

    def __repr__(self) -> str:
        return f"<polyconv.Algorithm {': '.join(filter(None, (self.name, self.detail)))}>"

    def takes(self, dtype: Any, total: Any) -> bool:
        """Whether it takes images of a dtype, and writes results of it, as they are; ``total`` is that of sums."""
        return bool(dtype == total) or (self.casts is not None and self.casts(str(dtype)))

    def pads(self, problem: ConvProblem) -> bool:
        """Whether it adds the margins of ``problem``, all zeros, by itself."""
        return problem.padding_mode == "constant" and self.absorbs is not None and self.absorbs(problem)


def never(problem: ConvProblem, target: Target) -> None:
    """The ``reject`` of an algorithm that runs every problem."""
