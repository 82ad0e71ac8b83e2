"""Outputs near an edge: the runs of those that see the same taps, and that axes may be long."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak_beside_result

import polyconv as pc
from polyconv.algorithms.edges import runs


@settings(max_examples=1000)
@given(
    st.integers(0, 20), st.integers(1, 7), st.integers(1, 6), st.integers(1, 5), st.integers(0, 20), st.integers(0, 20)
)
def test_runs_are_what_outputs_see_one_by_one(
    size: int, taps: int, stride: int, dilation: int, low: int, high: int
) -> None:
    p = pc.ConvProblem(1, 1, 1, 1, (size,), (taps,), (stride,), (dilation,), ((low, high),))
    if p.output_size[0] < 1:
        return
    (found,) = runs(p)
    outputs = [(run, o) for run in found for o in range(run.first, run.first + run.outputs)]
    assert [o for _, o in outputs] == list(range(p.output_size[0]))
    for run, o in outputs:
        pixels = [o * stride + tap * dilation - low for tap in range(taps)]
        assert [tap for tap in range(taps) if 0 <= pixels[tap] < size] == list(range(run.tap, run.tap + run.taps))
        assert not run.taps or run.start + (o - run.first) * stride == pixels[run.tap]
    neighbours = pairwise(found)
    assert all((one.tap, one.taps) != (next_.tap, next_.taps) for one, next_ in neighbours)


def _steps(work: Any) -> int:
    """How many calls Python makes."""
    made = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal made
        made += event.endswith("call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize(
    ("layout", "w", "groups"),
    [("NCW", (1, 1, 9), 1), ("NCW", (4, 4, 9), 1), ("NWC", (9, 4, 4), 1), ("NWC", (9, 1, 4), 4)],
)
@pytest.mark.parametrize("padding", [0, 4])
def test_a_first_call_takes_no_longer_for_a_longer_signal(
    layout: str, w: tuple[int, ...], groups: int, padding: int
) -> None:
    """Beside the arithmetic: Python's steps, to plan and to run it once, grow like the number of ways to cut it."""
    pytest.importorskip("numba")
    channels, keywords = groups if groups > 1 else w[1], {"layout": layout, "groups": groups, "padding": padding}
    kernel = np.ones(w, "float32")

    def call(length: int) -> int:
        x = np.ones((1, channels, length) if layout == "NCW" else (1, length, channels), "float32")
        return _steps(lambda: pc.plan(x, kernel, **keywords)) + _steps(
            lambda: pc.conv(x, kernel, algorithm="direct", **keywords)
        )

    call(99_991)  # compiles what there is to compile
    short, long = call(100_003), call(1_000_003)
    assert long < 3 * short  # of a signal ten times as long


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_plan_takes_no_longer_for_a_longer_kernel(padding: str) -> None:
    def plan(taps: int) -> int:
        return _steps(
            lambda: pc.plan(np.ones((1, 1, 3 * taps), "float32"), np.ones((1, 1, taps), "float32"), padding=padding)
        )

    plan(5_000)
    assert plan(50_000) < 3 * plan(5_003)


@pytest.mark.parametrize("kernel", [(3, 1, 1, 4), (3, 3, 1, 4)])
def test_rows_are_many_within_the_workspace(kernel: tuple[int, ...]) -> None:
    pytest.importorskip("numba")
    x, w = np.ones((1, 100_000, kernel[1], 4), "float32"), np.ones(kernel, "float32")
    keywords: dict[str, Any] = {"groups": 4, "layout": "NHWC", "algorithm": "direct"}
    pc.conv2d(x[:, :50], w, **keywords)  # compiles
    plan = pc.plan(x, w, **keywords)
    assert peak_beside_result(plan, x, w, warm=False) <= plan.chosen.workspace
