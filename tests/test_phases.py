"""Phases: a convolution with stride and dilation is one with neither, of more images and more channels."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv as pc
from polyconv.algorithms import phases
from polyconv.algorithms.im2col import im2col


@st.composite
def problems(draw: st.DrawFn) -> pc.ConvProblem:
    """A problem in one to three axes, of a few thousand products."""
    ndim = draw(st.integers(1, 3))

    def each(most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(1, most)) for _ in range(ndim))

    kernel, stride, dilation = each({1: 9, 2: 5, 3: 3}[ndim]), each(6), each(6)
    margin = st.integers(0, {1: 40, 2: 13, 3: 6}[ndim])
    size = tuple((k - 1) * d + 1 + draw(margin) for k, d in zip(kernel, dilation, strict=True))
    batch, groups, channels, filters = (draw(st.integers(1, 2)) for _ in range(4))
    nothing = ((0, 0),) * ndim
    return pc.ConvProblem(batch, groups, channels, filters, size, kernel, stride, dilation, nothing, dtype="int64")


@settings(max_examples=300)
@given(problems())
def test_the_phases_together_are_the_convolution(p: pc.ConvProblem) -> None:
    unit = phases.unit(p)
    assert unit.stride == unit.dilation == (1,) * p.ndim
    rng = np.random.default_rng(0)
    x = rng.integers(-99, 99, (p.batch, p.groups, p.channels, *p.size))
    w = rng.integers(-99, 99, (p.groups, p.filters, p.channels, *p.kernel))
    images, kernels = phases.split_image(x, p, np), phases.split_kernel(w, p, np)
    assert images.shape == (unit.batch, unit.groups, unit.channels, *unit.size)
    assert kernels.shape == (unit.groups, unit.filters, unit.channels, *unit.kernel)
    y = phases.join(im2col(images, kernels, unit, np), p, np)
    np.testing.assert_array_equal(y, im2col(x, w, p, np))


@given(problems())
def test_a_phase_has_the_fewest_taps(p: pc.ConvProblem) -> None:
    """Stride and dilation shorten the kernel by all that they do not have in common."""
    steps = [s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True)]
    assert phases.unit(p).kernel == tuple(-(-k // s) for k, s in zip(p.kernel, steps, strict=True))


def test_what_is_straight_is_left_alone() -> None:
    p = pc.ConvProblem(1, 1, 1, 1, (5, 6), (3, 2), (1, 1), (1, 1), ((0, 0),) * 2)
    x = np.ones((1, 1, 1, 5, 6))
    assert phases.straight(p)
    assert phases.unit(p) == p
    assert all(step(x, p, np) is x for step in (phases.split_image, phases.split_kernel, phases.join))
