"""Planes of channels made pixels of channels, and back, and what is convolved in between."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import Case, cases

import polyconv as pc
from polyconv.algorithms import direct
from polyconv.algorithms.interleaved import interleave, interleaved

PLANES = interleaved(direct.LOOPS)
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 3, 50),
    (1, 1, 37, 5, 7),
    (2, 3, 16, 4, 16),
    (2, 20, 1, 3, 33),
    (1, 2, 17, 2, 3, 18),
    (1, 1, 40, 9, 1),
]


def pixels(x: np.ndarray) -> np.ndarray:
    """The same array with channels innermost in memory, and within them groups last."""
    order = (0, *range(3, x.ndim), 1, 2)
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_interleaving_moves_every_element_and_writes_nothing_else(shape: tuple[int, ...], dtype: str) -> None:
    """Whole arrays, and parts of larger ones, whose rows do not follow each other."""
    rng = np.random.default_rng(0)
    for back, within in product((False, True), (False, True)):
        larger = (*shape[:3], *(n + within for n in shape[3:]))
        part = (slice(None),) * 3 + tuple(slice(within, None) for _ in shape[3:])
        x, y = rng.integers(1, 99, larger).astype(dtype), np.zeros(larger, dtype)
        x, y = (pixels(x), y) if back else (x, pixels(y))
        interleave(x[part], y[part], back)
        np.testing.assert_array_equal(y[part], x[part])
        assert np.count_nonzero(y) == x[part].size


@settings(max_examples=100, deadline=None)
@given(cases(dtypes=("int64",), max_terms=600))
def test_random_problems(case: Case) -> None:
    """Where channels come last there is nothing to interleave, and it says so."""
    plan = partial(pc.plan, case.x, case.w, algorithm=PLANES, **case.keywords)
    if case.keywords["layout"].replace("N", "").endswith("C"):
        with pytest.raises(ValueError, match="interleaved as it is"):
            plan()
    else:
        np.testing.assert_array_equal(plan()(case.x, case.w, case.bias), case.expected())


@pytest.mark.parametrize("workers", [1, 2])
def test_tiles_are_interleaved_one_at_a_time(workers: int) -> None:
    """A limit cuts the image; margins, groups, strides and a bias come through that."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (3, 32, 40, 40)), rng.integers(-9, 9, (64, 8, 3, 3))
    bias = rng.integers(-9, 9, 64)
    keywords: dict[str, Any] = {"groups": 4, "padding": (2, 1), "stride": (1, 2)}
    call = {**keywords, "max_workspace": 2**19, "workers": workers}
    plan = pc.plan(x, w, algorithm=PLANES, **call)
    assert plan.chosen.workspace <= 2**19
    assert plan.chosen.tile.rows < plan.call.problem.output_size[0]
    np.testing.assert_array_equal(plan(x, w, bias), pc.conv(x, w, bias, algorithm="im2col", **keywords))


def test_many_channels_in_planes_are_interleaved_and_few_are_not() -> None:
    """And the plan says which."""
    few = pc.plan(np.ones((1, 3, 64, 64), "float32"), np.ones((4, 3, 3, 3), "float32"), algorithm="direct")
    many = pc.plan(
        np.ones((8, 256, 28, 28), "float32"), np.ones((256, 256, 3, 3), "float32"), stride=2, algorithm="direct"
    )
    assert few.chosen.algorithm.detail == ""
    assert many.chosen.algorithm.detail == "interleaved"
    assert "interleaved, as asked" in str(many)
