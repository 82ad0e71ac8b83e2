"""ConvProblem's arithmetic against counting, and against the definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import polyconv as pc
from polyconv.problem import output_extent, reach


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_output_extent_counts_the_windows_that_fit(n: int, kernel: int, stride: int, dilation: int) -> None:
    assert output_extent(n, kernel, stride, dilation) == reference.windows_that_fit(n, kernel, stride, dilation)


def test_reach_is_the_span_of_the_dilated_taps() -> None:
    assert reach(1, 5) == 1
    assert reach(3, 1) == 3
    assert reach(3, 4) == len(range(2 * 4 + 1))


PROBLEM = pc.ConvProblem(
    batch=2,
    groups=3,
    channels=4,
    filters=5,
    size=(10, 7),
    kernel=(3, 2),
    stride=(2, 1),
    dilation=(1, 3),
    padding=((1, 2), (0, 1)),
    padding_mode="reflect",
    dtype="complex64",
)


def test_derived_numbers() -> None:
    assert PROBLEM.ndim == 2
    assert PROBLEM.padded_size == (13, 8)
    assert PROBLEM.output_size == (6, 5)
    assert PROBLEM.positions == 30
    assert PROBLEM.result_shape == (2, 3, 5, 6, 5)
    assert PROBLEM.memory_order == (0, 1, 2, 3, 4)
    assert dataclasses.replace(PROBLEM, channels_last=True).memory_order == (0, 3, 4, 1, 2)
    assert PROBLEM.taps == 6
    assert PROBLEM.image_elements == 2 * 3 * 4 * 13 * 8
    assert PROBLEM.kernel_elements == 3 * 5 * 4 * 6
    assert PROBLEM.output_elements == 2 * 3 * 5 * 30
    assert PROBLEM.macs == 2 * 3 * 5 * 30 * 4 * 6
    assert PROBLEM.itemsize == 8


def test_a_padded_problem_gives_the_same_result_without_padding() -> None:
    padded = PROBLEM.padded
    assert padded.size == PROBLEM.padded_size
    assert padded.output_size == PROBLEM.output_size
    assert padded.padding == ((0, 0), (0, 0))
    assert padded.padded == padded


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float32", "float64", "longdouble", "complex64", "complex128"])
def test_itemsize_is_that_of_the_dtype(dtype: str) -> None:
    name = np.dtype(dtype).name
    assert dataclasses.replace(PROBLEM, dtype=name).itemsize == np.dtype(dtype).itemsize


def test_problems_are_values() -> None:
    other = dataclasses.replace(PROBLEM)
    assert other == PROBLEM
    assert hash(other) == hash(PROBLEM)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROBLEM.batch = 3  # type: ignore[misc]
