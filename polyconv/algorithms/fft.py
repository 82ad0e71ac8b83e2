"""Convolution through Fourier transforms, by overlap-save.

A block of the image and the kernel, both transformed, are multiplied frequency by frequency; the product's inverse
transform is their circular correlation, whose first outputs no wrapping has touched (Oppenheim & Schafer,
"Discrete-time signal processing", section 8.7; over channels, Mathieu, Henaff & LeCun, "Fast training of convolutional
networks through FFTs", arXiv:1312.5851). Channels are summed in the frequency domain. What it costs hardly depends on
the size of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING

from ..arrays import Array, device, new
from ..integers import integer, integers, is_sequence
from ..problem import ConvProblem
from ..rounding import roundoff, summed
from . import phases, spectra
from .base import Algorithm, Cost
from .overlap import assemble, blocks, gather

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["FFT", "OVERLAP_SAVE", "good_length"]


def good_length(least: int) -> int:
    """The least length of at least ``least`` that has no prime factor above five, whose transforms are fast."""
    return min(
        odd << max(0, (-(-least // odd) - 1).bit_length())
        for odd in (three * five for three in _powers(3, least) for five in _powers(5, least))
    )


def _powers(base: int, least: int) -> Iterator[int]:
    """Those of a number, to the first that is at least ``least``."""
    power = 1
    while power < least:
        yield power
        power *= base
    yield power


# What depends on the length of blocks alone: ``block`` is the inputs of one along each axis of a problem in phases, or
# None for one block that holds the whole image.


def _block(block: tuple[int, ...] | None, p: ConvProblem) -> tuple[int, ...]:
    return tuple(map(good_length, p.size)) if block is None else block


def _outputs(block: tuple[int, ...] | None, p: ConvProblem) -> tuple[int, ...]:
    """Outputs of a block along each axis."""
    return tuple(n - k + 1 for n, k in zip(_block(block, p), p.kernel, strict=True))


def _frequencies(block: tuple[int, ...] | None, p: ConvProblem) -> tuple[int, ...]:
    """Frequencies of a block along each axis: real images need only half of the last axis."""
    *first, last = _block(block, p)
    return (*first, last if p.dtype.startswith("complex") else last // 2 + 1)


def _forward(x: Array, lengths: tuple[int, ...], norm: str, xp: ModuleType) -> Array:
    """The transform over the last axes, filled up with zeros to ``lengths``.

    Its ``norm`` is one with a factor, because NumPy (2.4 at least) goes through float64 where there is none.
    """
    axes = tuple(range(-len(lengths), 0))
    transform = xp.fft.fftn if xp.isdtype(x.dtype, "complex floating") else xp.fft.rfftn
    return transform(x, s=lengths, axes=axes, norm=norm)


def _backward(x: Array, lengths: tuple[int, ...], real: bool, xp: ModuleType) -> Array:
    axes = tuple(range(-len(lengths), 0))
    transform = xp.fft.irfftn if real else xp.fft.ifftn
    return transform(x, s=lengths, axes=axes, norm="ortho")


def _prepare(block: tuple[int, ...] | None, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """The conjugate of the kernel's transform: ``(G, K, *frequencies)``, or ``(F, G, C, K)`` to be summed over."""
    p = phases.unit(problem)
    w = phases.split_kernel(w, problem, xp)
    if p.dtype.startswith("complex"):
        w = xp.conj(w)
    lengths = _block(block, p)
    spectrum = xp.conj(_forward(w, lengths, "forward", xp))
    scale = math.prod(lengths)  # undoes the factor, exactly; those of the other two transforms make one together
    if p.channels == 1:
        return xp.reshape(spectrum * scale, (p.groups, p.filters, *spectrum.shape[3:]))
    spectrum = xp.permute_dims(xp.reshape(spectrum, (p.groups, p.filters, p.channels, -1)), (3, 0, 2, 1))
    shape = spectrum.shape
    return xp.reshape(xp.reshape(spectrum, (-1,)) * scale, shape)  # laid out in memory so, once and for all


def _run(block: tuple[int, ...] | None, x: Array, kernel: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    """Blocks gathered, transformed, multiplied and summed over channels, and transformed back."""
    p, n = phases.unit(problem), problem.ndim
    lengths, m = _block(block, p), _outputs(block, p)
    number, frequencies = blocks(p, m).output_size, _frequencies(block, p)

    def image() -> Array:
        view = gather(phases.split_image(x, problem, xp), p, m, xp)
        inputs, space = range(3, 3 + n), range(3 + n, 3 + 2 * n)
        return _forward(xp.permute_dims(view, (0, 1, 2, *space, *inputs)), lengths, "ortho", xp)

    if p.channels == 1:
        spectrum = image() * xp.reshape(kernel, (p.groups, p.filters, *(1,) * n, *frequencies))
    else:
        every = xp.reshape(image(), (p.batch, p.groups, p.channels, math.prod(number), -1))
        every = xp.reshape(xp.permute_dims(every, (4, 1, 0, 3, 2)), (kernel.shape[0], p.groups, -1, p.channels))
        spectrum = xp.matmul(every, kernel)
        del every
        spectrum = xp.reshape(spectrum, (*frequencies, p.groups, p.batch, *number, p.filters))
        order = (n + 1, n, 2 * n + 2, *range(n + 2, 2 * n + 2), *range(n))
        spectrum = xp.permute_dims(spectrum, order)
    y = _backward(spectrum, lengths, not p.dtype.startswith("complex"), xp)
    del spectrum
    y = y[(..., *(slice(outputs) for outputs in m))]
    return phases.join(assemble(y, p, xp), problem, xp)


# -- its cost ------------------------------------------------------------------------------------------------


def _transform_flops(transforms: int, block: tuple[int, ...], p: ConvProblem) -> int:
    """Real operations of transforms of one block each, by the usual count of ``5 n log2 n``; half that for reals."""
    n = math.prod(block)
    return int(transforms * (5.0 if p.dtype.startswith("complex") else 2.5) * n * math.log2(max(n, 2)))


def _cost(block: tuple[int, ...] | None, problem: ConvProblem) -> Cost:
    p = phases.unit(problem)
    m = _outputs(block, p)
    cut = blocks(p, m)
    real = 1 if p.dtype.startswith("complex") else 2  # a complex number has twice the bytes of a real one
    frequencies = math.prod(_frequencies(block, p)) * real
    every = p.batch * p.groups * cut.positions
    image, result = every * p.channels * frequencies, every * p.filters * frequencies
    split = 0 if phases.straight(problem) else p.image_elements
    padded = cut.image_elements if cut.size != p.size else 0
    inside = every * p.filters * math.prod(m)
    complex_macs = every * p.filters * p.channels * frequencies // real
    summed_over = p.channels > 1
    moves = 5 if summed_over else 2
    traffic = 2 * split + 2 * padded + moves * (image + result) + 3 * inside
    return Cost(
        matmul_macs=real**2 * complex_macs if summed_over else 0,
        fft_flops=_transform_flops(every * (p.channels + p.filters), cut.kernel, p),
        other_flops=0 if summed_over else 6 * complex_macs,
        traffic=traffic * p.itemsize,
        runs=(image + result if summed_over else 0) + inside // (1 if p.channels_last else m[-1]),
        calls=20,
        workspace=_held(block, problem, image, result, inside) * p.itemsize,
        error=roundoff(p.dtype) * summed(p.channels, 2.6 + math.log2(math.prod(cut.kernel))),
        spreads=True,
        grain=m[0] * (problem.dilation[0] // math.gcd(problem.dilation[0], problem.stride[0])),
    )


def _held(block: tuple[int, ...] | None, problem: ConvProblem, image: int, result: int, inside: int) -> int:
    """The most elements held at once beside the result: what each step of :func:`_run` needs and what it makes.

    ``image`` and ``result`` are the elements of both in the frequency domain, ``inside`` those of the result's blocks.
    """
    p = phases.unit(problem)
    cut = blocks(p, _outputs(block, p))
    split = phases.image_held(problem)
    padded = cut.image_elements  # if not here, then in the last tile of an image
    back = cut.batch * cut.groups * cut.filters * cut.positions * cut.taps
    # A transform goes axis by axis, each of which needs what the one before it made.
    steps = (
        split.most,
        split.left + padded,
        padded + image * min(p.ndim, 2),
        2 * image,
        image + result,
        result * min(p.ndim, 2) + back,
        3 * result if p.ndim > 2 else 0,
        back + inside + (0 if phases.straight(problem) else problem.output_elements),
    )
    return max(steps) - problem.output_elements


def _prepare_cost(block: tuple[int, ...] | None, problem: ConvProblem) -> Cost:
    p = phases.unit(problem)
    lengths = _block(block, p)
    kernels = p.groups * p.filters * p.channels
    split = phases.kernel_held(problem)
    spectrum = kernels * math.prod(_frequencies(block, p)) * (1 if p.dtype.startswith("complex") else 2)
    return Cost(
        fft_flops=_transform_flops(kernels, lengths, p),
        traffic=(2 * p.kernel_elements + 6 * spectrum) * p.itemsize,
        runs=spectrum,
        calls=12,
        workspace=max(split.most, split.left + p.kernel_elements, p.kernel_elements + 3 * spectrum) * p.itemsize,
        kept=spectrum * p.itemsize,
    )


def _reject(block: tuple[int, ...] | None, problem: ConvProblem, target: Target) -> str | None:
    p = phases.unit(problem)
    if not roundoff(p.dtype):
        return f"fft is inexact, and sums of {p.dtype} are exact"
    if not target.fft:
        return f"fft needs Fourier transforms, and {target.library} has none in its namespace"
    if block is None:
        return None
    if len(block) != p.ndim:
        return f"fft was given blocks of {len(block)} lengths {block}, for {p.ndim} spatial axes"
    if any(length < k for length, k in zip(block, p.kernel, strict=True)):
        given, kernel = ("x".join(map(str, lengths)) for lengths in (block, p.kernel))
        return f"fft was given blocks of {given}, smaller than the kernel {kernel}"
    return None


@lru_cache
def _overlap_save(block: tuple[int, ...] | None) -> Algorithm:
    return Algorithm(
        "fft",
        run=partial(_run, block),
        cost=partial(_cost, block),
        reject=partial(_reject, block),
        prepare=partial(_prepare, block),
        prepare_cost=partial(_prepare_cost, block),
        detail="" if block is None else "x".join(map(str, block)),
    )


# -- the same, fused -----------------------------------------------------------------------------------------


def _fused_block(block: tuple[int, ...] | None, p: ConvProblem) -> tuple[int, ...]:
    """The lengths of a block: where none is asked for, the least that compiled transforms have and the image fits."""
    return spectra.whole(p) if block is None else block


def _fused_reject(block: tuple[int, ...] | None, problem: ConvProblem, target: Target) -> str | None:
    if target.no_numba:
        return f"fused fft {target.no_numba}"
    if problem.dtype not in ("float32", "float64"):
        return f"fused fft is compiled for single and double precision, not for {problem.dtype}"
    if not phases.straight(problem):
        return "fused fft takes no strides and no dilation"
    if reason := _reject(block, problem, target):
        return reason
    known = spectra.lengths()
    for length in _fused_block(block, problem):
        if length not in known:
            return f"fused fft takes blocks of up to {known[-1]} that have two factors of up to 16, not {length}"
    return None


def _fused_prepare(block: tuple[int, ...] | None, w: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    return spectra.prepare(w, problem, _fused_block(block, problem), xp)


def _fused_write(
    block: tuple[int, ...] | None,
    x: Array,
    kernel: Array,
    problem: ConvProblem,
    xp: ModuleType,
    y: Array,
    workers: int = 1,
) -> None:
    spectra.write(x, kernel, problem, _fused_block(block, problem), xp, y, workers)


def _fused_shares(block: tuple[int, ...] | None, problem: ConvProblem, workers: int) -> int:
    return spectra.units(problem, _fused_block(block, problem))


def _fused_run(block: tuple[int, ...] | None, x: Array, kernel: Array, problem: ConvProblem, xp: ModuleType) -> Array:
    y = new(xp.empty, problem.result_shape, problem.memory_order, problem.dtype, device(x), xp)
    _fused_write(block, x, kernel, problem, xp, y)
    return y


def _fused_cost(block: tuple[int, ...] | None, p: ConvProblem) -> Cost:
    lengths = _fused_block(block, p)
    error = roundoff(p.dtype) * summed(p.channels, 2.6 + math.log2(math.prod(lengths)))
    return replace(spectra.cost(p, lengths), error=error, spreads=True)


def _fused_prepare_cost(block: tuple[int, ...] | None, p: ConvProblem) -> Cost:
    return spectra.prepare_cost(p, _fused_block(block, p))


@lru_cache
def _fused(block: tuple[int, ...] | None) -> Algorithm:
    return Algorithm(
        "fft",
        run=partial(_fused_run, block),
        cost=partial(_fused_cost, block),
        reject=partial(_fused_reject, block),
        prepare=partial(_fused_prepare, block),
        prepare_cost=partial(_fused_prepare_cost, block),
        detail=", ".join(filter(None, ("" if block is None else "x".join(map(str, block)), "fused"))),
        write=partial(_fused_write, block),
        shares=partial(_fused_shares, block),
        absorbs=lambda problem: True,
    )


def FFT(  # noqa: N802 - it makes an algorithm, and reads as one
    block: int | Sequence[int] | None = None, fused: bool = False
) -> Algorithm:
    """Convolution by Fourier transforms of blocks of ``block`` inputs, for ``algorithm=``.

    Parameters
    ----------
    block
        The length of a block along each spatial axis, or one length for a single axis: at least the kernel's, and
        better a product of twos, threes and fives. By default the whole image is one block.
    fused
        Whether blocks are gathered, transformed, multiplied and transformed back in one pass, by what numba compiles,
        rather than by one array operation after the other; of images in NumPy's arrays, and for some lengths up to 256.

    Raises
    ------
    ValueError, TypeError
        For lengths that are no positive integers.
    """
    if block is None:
        return replace(_fused(None), variants=_one_fused_block) if fused else _ONE_BLOCK
    lengths = integers(block, "block", 1) if is_sequence(block) else (integer(block, "block", 1),)
    return _fused(lengths) if fused else _overlap_save(lengths)


def _variants(problem: ConvProblem, target: Target) -> tuple[Algorithm, ...]:
    """Blocks from twice the kernel to the whole image, doubled from one to the next, and those of compiled loops."""
    p = phases.unit(problem.padded)
    found: list[tuple[int, ...]] = []
    while not found or found[-1] != tuple(map(good_length, p.size)):
        factor = 2 ** (len(found) + 1)
        found.append(tuple(good_length(min(factor * k, size)) for k, size in zip(p.kernel, p.size, strict=True)))
    compiled = phases.straight(problem) and not target.no_numba
    return (*map(_overlap_save, dict.fromkeys(found)), *map(_fused, spectra.sizes(problem) if compiled else ()))


def _one_block(problem: ConvProblem, target: object) -> tuple[Algorithm, ...]:
    """One block for the whole image, its length fixed here: a prepared kernel must fit the image's tiles as well."""
    return (_overlap_save(_block(None, phases.unit(problem.padded))),)


def _one_fused_block(problem: ConvProblem, target: object) -> tuple[Algorithm, ...]:
    return (_fused(spectra.whole(problem)),)


_ONE_BLOCK = replace(_overlap_save(None), variants=_one_block)
OVERLAP_SAVE = replace(_overlap_save(None), variants=_variants)
