"""Plans: what they choose, what they say, what they promise of memory."""

from __future__ import annotations

import dataclasses
import gc
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from backends import ON_NUMPY
from memory import peak_beside_result, peak_of
from spy import only

import polyconv as pc
from polyconv.algorithms import ALGORITHMS


class Shaped:
    """Something with a shape and a dtype, and no data to look at."""

    def __init__(self, *shape: int, dtype: str = "float32") -> None:
        self.shape, self.dtype = shape, dtype


PROBLEMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "channels-first": ((4, 8, 70, 71), (16, 8, 3, 3), {}),
    "channels-last": ((4, 70, 71, 8), (3, 3, 8, 16), {"layout": "NHWC"}),
    "padded": ((2, 8, 70, 71), (16, 8, 5, 5), {"padding": "same"}),
    "reflect": ((2, 70, 71, 8), (3, 3, 8, 16), {"layout": "NHWC", "padding": 1, "padding_mode": "reflect"}),
    "grouped": ((4, 8, 70, 70), (16, 2, 3, 3), {"groups": 4}),
    "grouped-last": ((4, 70, 70, 8), (3, 3, 2, 16), {"groups": 4, "layout": "NHWC"}),
    "depthwise": ((4, 90, 90, 16), (3, 3, 1, 32), {"groups": 16, "layout": "NHWC", "stride": 2}),
    "pointwise": ((4, 60, 60, 16), (1, 1, 16, 16), {"layout": "NHWC"}),
    "pointwise-strided": ((4, 16, 120, 120), (16, 16, 1, 1), {"stride": 2}),
    "one-channel": ((300, 300), (5, 5), {"layout": "HW", "flip_kernel": True}),
    "dilated": ((1, 8, 120, 120), (8, 8, 3, 3), {"dilation": 3, "stride": 2}),
    "cast": ((2, 8, 70, 70), (4, 8, 3, 3), {"dtype": "float64"}),
    "awkward-layout": ((8, 70, 70, 3), (3, 8, 4, 3), {"layout": "CHWN", "kernel_layout": "HIOW"}),
    "awkward-pointwise": ((8, 70, 70, 3), (1, 8, 16, 1), {"layout": "CHWN", "kernel_layout": "HIOW"}),
    "half": ((2, 8, 70, 70), (32, 8, 1, 1), {"dtype": "float16"}),
    "volume": ((1, 4, 20, 23, 24), (4, 4, 3, 3, 3), {"padding": 1}),
    "volume-strided": (
        (1, 20, 23, 24, 4),
        (2, 3, 2, 4, 4),
        {"layout": "NDHWC", "stride": (1, 2, 1), "dilation": (1, 1, 2)},
    ),
    "phases": (
        (2, 50, 61, 4),
        (5, 4, 4, 8),
        {"layout": "NHWC", "stride": (2, 3), "dilation": (3, 2), "padding": "same"},
    ),
    "complex": ((2, 4, 60, 41), (4, 4, 3, 4), {"dtype": "complex128", "stride": (2, 1), "padding": 2}),
    "complex-one-channel": ((2, 50, 61), (6, 5), {"layout": "NHW", "dtype": "complex64", "dilation": (1, 2)}),
    "signal": ((2, 8, 8000), (8, 8, 5), {"padding": "same"}),
}


def arrays(x: tuple[int, ...], w: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(x, dtype=np.float32), rng.standard_normal(w, dtype=np.float32)


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """Collecting garbage looks at every object there is, and libraries and other tests have left millions."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def uncounted(plan: pc.Plan) -> int:
    """Bytes that no plan counts: frames and views, and each thread's iterator buffers, in NumPy, for three operands."""
    return 8192 + 3 * np.getbufsize() * max(plan.call.problem.itemsize, 8) * plan.chosen.workers


@pytest.mark.parametrize("algorithm", ON_NUMPY)
@pytest.mark.parametrize("name", PROBLEMS)
def test_workspace_is_an_upper_bound_on_measured_memory(name: str, algorithm: str) -> None:
    x_shape, w_shape, keywords = PROBLEMS[name]
    if algorithm in ("naive", "patch"):  # loops: the same problem on a corner of the image
        letters = keywords.get("layout", "NC...")
        x_shape = tuple(n if letter in "NC" else min(n, 7) for n, letter in zip(x_shape, letters, strict=False))
    x, w = arrays(x_shape, w_shape)
    try:
        plan = pc.plan(x, w, algorithm=algorithm, **keywords)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    allowed = plan.chosen.workspace + uncounted(plan)
    assert peak_beside_result(plan, x, w) <= allowed
    if algorithm == "naive":  # which is slow, and prepares nothing
        return
    peak, prepared = peak_of(plan.prepare, w)
    assert peak <= allowed + w.nbytes  # of which it takes a copy first
    assert peak_beside_result(prepared, x) <= allowed


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("algorithm", ["fft", pc.Winograd(4)], ids=["fft", "winograd"])
@pytest.mark.parametrize("name", ["reflect", "phases", "complex", "volume"])
def test_workspace_of_tiles_is_an_upper_bound_as_well(name: str, algorithm: Any, workers: int) -> None:
    """Tiles in order and at once, with one at the end that is smaller than the others."""
    x_shape, w_shape, keywords = PROBLEMS[name]
    x, w = arrays(x_shape, w_shape)
    whole = pc.plan(x, w, algorithm=algorithm, workers=1, **keywords).chosen
    plan = pc.plan(x, w, algorithm=algorithm, workers=workers, max_workspace=whole.workspace * 2 // 3, **keywords)
    assert plan.chosen.tile < whole.tile
    assert peak_beside_result(plan, x, w) <= plan.chosen.workspace + uncounted(plan)
    assert plan.chosen.workspace <= whole.workspace * 2 // 3


def test_workspace_counts_margins_in_the_dtype_of_the_image() -> None:
    """They are added before the image is cast to what is summed."""
    x, w = np.ones((4, 8, 70, 70)), np.ones((8, 8, 1, 1))
    for dtype in ("float32", "float64", "complex128"):
        plan = pc.plan(x, w, dtype=dtype, padding=5, algorithm="pointwise")
        assert peak_beside_result(plan, x, w) <= plan.chosen.workspace + uncounted(plan)


def test_max_workspace_is_kept_by_smaller_tiles_or_another_algorithm() -> None:
    x, w = arrays((4, 60, 60, 3), (3, 3, 3, 16))
    expected = pc.plan(x, w, layout="NHWC")(x, w)
    for limit in (10**6, 10**5, 5 * 10**4):
        plan = pc.plan(x, w, layout="NHWC", max_workspace=limit)
        assert {c.name: c for c in plan.candidates}[plan.algorithm].workspace <= limit
        for candidate in plan.candidates:
            if candidate.reason is None and candidate.name != "naive":
                named = pc.plan(x, w, layout="NHWC", max_workspace=limit, algorithm=candidate.name)
                np.testing.assert_allclose(named(x, w), expected, rtol=1e-4, atol=1e-4)
                assert peak_beside_result(named, x, w) <= limit + uncounted(named)
    with pytest.raises(ValueError, match=r"no algorithm can run this problem.*needs .* max_workspace=0"):
        pc.conv2d(x, w, layout="NHWC", max_workspace=0)
    with pytest.raises(ValueError, match=r"algorithm='im2col' cannot run this problem: needs .* max_workspace=100"):
        pc.conv2d(x, w, layout="NHWC", max_workspace=100, algorithm="im2col")


def test_where_memory_is_short_the_least_that_would_do_is_said_first() -> None:
    for x, w, keywords in PROBLEMS.values():
        shaped = Shaped(*x), Shaped(*w)
        with pytest.raises(ValueError, match="no algorithm can run this problem") as caught:
            pc.plan(*shaped, **keywords, max_workspace=1)
        said = re.search(r"in max_workspace=1 bytes: the least is (\w+), with (\d+) bytes; ", str(caught.value))
        assert said is not None
        name, least = said[1], int(said[2])
        others = [int(number) for number in re.findall(r"needs (\d+) bytes", str(caught.value))]
        assert [least, *others] == sorted([least, *others])
        assert name in {c.name for c in pc.plan(*shaped, **keywords, max_workspace=least).candidates if not c.reason}
        with pytest.raises(ValueError, match=f"the least is {name}, with {least} bytes"):
            pc.plan(*shaped, **keywords, max_workspace=least - 1)


def test_auto_takes_the_least_predicted_time() -> None:
    for x, w, keywords in PROBLEMS.values():
        plan = pc.plan(Shaped(*x), Shaped(*w), **keywords)
        times = {c.name: c.seconds for c in plan.candidates}
        assert times[plan.algorithm] == min(times.values())
        assert [*times] == [*pc.algorithms()]


def test_auto_runs_what_the_plan_says() -> None:
    for x_shape, w_shape, keywords in PROBLEMS.values():
        x, w = arrays(x_shape, w_shape)
        name = pc.plan(x, w, **keywords).algorithm
        with only(name) as ran:
            pc.conv(x, w, **keywords, algorithm=name)
        assert ran


@pytest.mark.parametrize(
    ("x", "w", "keywords", "best"),
    [
        ((4, 1024, 14, 14), (1024, 1024, 1, 1), {}, "pointwise"),
        ((4, 28, 28, 256), (1, 1, 256, 64), {"layout": "NHWC"}, "direct"),
        ((8, 28, 28, 256), (3, 3, 1, 256), {"groups": 256, "layout": "NHWC"}, "direct"),
        ((8, 150, 150, 3), (3, 3, 3, 16), {"layout": "NHWC"}, "winograd"),
        ((8, 150, 150, 3), (3, 3, 3, 16), {"layout": "NHWC", "accuracy": "strict"}, "direct"),
    ],
)
def test_auto_on_clear_cases(x: Any, w: Any, keywords: Any, best: str) -> None:
    assert pc.plan(Shaped(*x), Shaped(*w), **keywords).algorithm == best


def test_plans_of_equal_arguments_are_one() -> None:
    x, w = arrays((2, 3, 9, 9), (4, 3, 3, 3))
    assert pc.plan(x, w) is pc.plan(x + 1, w - 1, stride=(1, 1), padding="valid", layout="NCHW")
    assert pc.plan(x, w) is not pc.plan(x, w, stride=2)
    assert pc.plan(x, w) is not pc.plan(x, w.astype(np.float64))
    assert pc.plan(x, w) is not pc.plan(x, w, algorithm="im2col")


def test_a_plan_prints_every_algorithm_with_its_cost_or_reason() -> None:
    plan = pc.plan(Shaped(8, 150, 150, 3), Shaped(3, 3, 3, 16), layout="NHWC")
    text = str(plan)
    head, *table = text.split("\n\n")[1].splitlines()
    assert head.split() == ["algorithm", "time", "flops", "bytes", "workspace", "error"]
    assert text.startswith("8x150x150x3 (NHWC) by 3x3x3x16 (HWIO) -> 8x148x148x16")
    assert "float32 on numpy (cpu), 75.7 M multiply-adds" in text
    assert [row.lstrip("> ").split()[0] for row in table] == [*pc.algorithms()]
    chosen = [row for row in table if row.startswith(">")]
    assert len(chosen) == 1
    assert plan.algorithm in chosen[0]
    assert "least predicted time" in chosen[0]
    for row, candidate in zip(table, plan.candidates, strict=True):
        assert (candidate.reason or "") in row
        assert candidate.algorithm.detail in row or candidate.reason
        if candidate.reason is None:
            assert f" {candidate.error:.1e} " in f"{row} "
        assert math.isinf(candidate.seconds) == (" - " in row)
    exact = pc.plan(Shaped(9, 9, dtype="int8"), Shaped(3, 3, dtype="int8"), layout="HW", algorithm="winograd")
    assert " exact " in next(row for row in str(exact).splitlines() if row.startswith(">"))
    assert "as asked" in str(pc.plan(Shaped(9, 9), Shaped(3, 3), layout="HW", algorithm="taps"))
    assert repr(plan).startswith(f"<polyconv.Plan {plan.algorithm}: 8x150x150x3")


def test_an_algorithm_of_ones_own_is_planned_and_run() -> None:
    """What CONTRIBUTING promises: a record is all it takes."""
    im2col = next(row for row in ALGORITHMS if row.name == "im2col")
    ran = []

    def run(x: Any, w: Any, problem: pc.ConvProblem, xp: Any) -> Any:
        ran.append(problem)
        return im2col.run(x, w, problem, xp)

    mine = dataclasses.replace(im2col, name="mine", run=run)
    x, w = arrays((2, 3, 9, 9), (4, 3, 3, 3))
    plan = pc.plan(x, w, algorithm=mine, padding=1)
    assert plan.algorithm == "mine"
    assert "mine" in str(plan)
    np.testing.assert_array_equal(plan(x, w), pc.conv2d(x, w, padding=1, algorithm="im2col"))
    assert [problem.size for problem in ran] == [(11, 11)]


def test_a_plan_takes_only_the_arrays_it_was_made_for() -> None:
    x, w = arrays((2, 3, 9, 9), (4, 3, 3, 3))
    plan = pc.plan(x, w)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 9, 9\), and the plan is for \(2, 3, 9, 9\)"):
        plan(x[:1], w)
    with pytest.raises(TypeError, match="w has dtype float64, and the plan is for float32"):
        plan(x, w.astype(np.float64))
    with pytest.raises(TypeError, match="x must be an array"):
        plan(x.tolist(), w)


def test_strict_accuracy_keeps_a_nan_in_its_windows() -> None:
    x, w = arrays((1, 2, 12, 12), (3, 2, 3, 3))
    x[0, 0, 5, 6] = np.nan
    touched = np.zeros((10, 10), dtype=bool)
    touched[3:6, 4:7] = True
    for algorithm in ("auto", *ON_NUMPY):
        if algorithm in ("fft", "winograd"):
            with pytest.raises(ValueError, match=r"strict' forbids outputs that depend on more than their own windows"):
                pc.conv2d(x, w, accuracy="strict", algorithm=algorithm)
            assert np.isnan(pc.conv2d(x, w, algorithm=algorithm)).sum() > 3 * touched.sum()
        elif algorithm not in ("pointwise", "depthwise"):
            y = pc.conv2d(x, w, accuracy="strict", algorithm=algorithm)
            np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(touched, (1, 3, 10, 10)), err_msg=algorithm)
