"""The ladder from nested loops to one matrix product: every method of polyconv on four workloads.

    python examples/ladder.py            # about half a minute; with --quick, seconds

Every output is compared with SciPy's before its time is believed. Methods take turns, and of each the median turn
counts. A method too slow for a whole workload runs on a corner of all its images, and its time is multiplied by the
ratio of multiply-adds, which is fair to loops over output positions: each costs the same. Such figures carry a ``~``
in the table and hatching in the plot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.lib.stride_tricks import as_strided
from scipy.signal import correlate

import polyconv as pc

PEER = "numpy (8 lines)"
TOLERANCE = 1e-5  # largest error over largest output, for sums in float32


@dataclass(frozen=True)
class Workload:
    """The shapes of images and filters, the axes of both as the layout spells them."""

    images: tuple[int, ...]
    filters: tuple[int, ...]
    layout: str = "NHWC"
    bias: bool = False

    def __str__(self) -> str:
        number, *image = self.images
        shapes = f"{number} x {'x'.join(map(str, image))} by {'x'.join(map(str, self.filters))}"
        return f"{shapes}{' and bias' if self.bias else ''}, {self.layout}"

    def small(self) -> Workload:
        """Two images of at most 24 x 24."""
        most = {"N": 2, "H": 24, "W": 24}
        images = (min(n, most.get(letter, n)) for letter, n in zip(self.layout, self.images, strict=True))
        return replace(self, images=tuple(images))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Normal random numbers: zeros would be kind to some methods."""
        rng = np.random.default_rng(seed=0)
        x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in (self.images, self.filters))
        number = self.filters[self.filter_axis]
        return x, w, rng.standard_normal(number, dtype=np.float32) if self.bias else None

    @property
    def filter_axis(self) -> int:
        """Which axis of the filters counts them: OIHW or HWIO."""
        return 0 if self.layout == "NCHW" else 3

    def corner(self, array: np.ndarray, height: int, width: int) -> np.ndarray:
        """The upper left corner of every image or result."""
        size = {"H": height, "W": width}
        return array[tuple(slice(size.get(letter)) for letter in self.layout)]

    def expected(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """The result by SciPy in float64, one filter at a time: one that is as deep as the image leaves one channel."""
        x, w = x.astype(np.float64), w.astype(np.float64)
        filters = np.moveaxis(w, self.filter_axis, 0)[:, np.newaxis]  # each with an axis of length one for N
        results = [correlate(x, one, mode="valid", method="fft") for one in filters]
        if bias is not None:
            results = [result + shift for result, shift in zip(results, bias, strict=True)]
        return np.concatenate(results, axis=self.layout.index("C"))


WORKLOADS = (
    Workload((8, 150, 150, 3), (3, 3, 3, 16)),
    Workload((3, 3, 1000, 1000), (3, 3, 3, 3), layout="NCHW"),
    Workload((32, 28, 28, 3), (4, 4, 3, 4), bias=True),
    Workload((100, 32, 32, 8), (3, 3, 8, 16)),
)

# -- a peer to compare with: what one writes by hand, once for each layout -----------------------------------


def numpy_nhwc(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    n, h, width, c = x.shape
    kh, kw, _, k = w.shape
    shape = (n, h - kh + 1, width - kw + 1, kh, kw, c)
    strides = (*x.strides[:3], *x.strides[1:])
    columns = as_strided(x, shape, strides).reshape(-1, kh * kw * c)
    y = columns @ w.reshape(-1, k)
    y = y.reshape(*shape[:3], k)
    return y if bias is None else y + bias


def numpy_nchw(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    n, c, h, width = x.shape
    k, _, kh, kw = w.shape
    shape = (n, c, kh, kw, h - kh + 1, width - kw + 1)
    strides = (*x.strides, *x.strides[2:])
    columns = as_strided(x, shape, strides).reshape(n, c * kh * kw, -1)
    y = w.reshape(k, -1) @ columns
    y = y.reshape(n, k, *shape[4:])
    return y if bias is None else y + bias[:, np.newaxis, np.newaxis]


# -- climbing ------------------------------------------------------------------------------------------------


@dataclass
class Rung:
    """A method made ready for one workload, or for a part of it."""

    run: Callable[[], np.ndarray]
    expected: np.ndarray
    factor: float = 1.0  # multiply-adds of the workload over those of the part
    part: str = ""
    chosen: bool = False  # by algorithm="auto"
    turns: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The time of the workload."""
        return self.factor * statistics.median(self.turns)

    def error(self) -> float:
        """The largest error over the largest output."""
        y = self.run()
        if y.shape != self.expected.shape:
            return np.inf
        return float(abs(y - self.expected).max() / abs(self.expected).max())

    def take_turn(self) -> None:
        """Run twice, the second time by the clock: the first brings back memory and caches from the method before."""
        self.run()
        start = time.perf_counter()
        self.run()
        self.turns.append(time.perf_counter() - start)


@dataclass
class Ladder:
    """All methods on one workload: those that can run it, and why the others cannot."""

    rungs: dict[str, Rung] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)


def build(workload: Workload, budget: float) -> Ladder:
    """Every method of polyconv in its order, made ready for as much of the workload as the budget of seconds allows."""
    ladder = Ladder()
    x, w, bias = workload.arrays()
    expected = workload.expected(x, w, bias)
    whole = pc.plan(x, w, layout=workload.layout)
    for candidate in whole.candidates:
        name = candidate.name
        if candidate.reason:
            ladder.refusals[name] = candidate.reason
            continue
        part, plan = x, pc.plan(x, w, layout=workload.layout, algorithm=name)
        height, width = plan.call.problem.output_size
        while predicted(plan) > budget and height * width > 1:
            height, width = (height + 1) // 2, (width + 1) // 2
            kh, kw = plan.call.problem.kernel
            part = np.ascontiguousarray(workload.corner(x, height + kh - 1, width + kw - 1))
            plan = pc.plan(part, w, layout=workload.layout, algorithm=name)
        ladder.rungs[name] = Rung(
            partial(plan, part, w, bias),
            workload.corner(expected, height, width),
            factor=whole.call.problem.macs / plan.call.problem.macs,
            part="" if part is x else "x".join(map(str, plan.call.problem.size)),
            chosen=name == whole.algorithm,
        )
    by_hand = numpy_nchw if workload.layout == "NCHW" else numpy_nhwc
    ladder.rungs[PEER] = Rung(partial(by_hand, x, w, bias), expected)
    return ladder


def predicted(plan: pc.Plan) -> float:
    """The seconds that the plan expects its own algorithm to take."""
    return next(candidate.seconds for candidate in plan.candidates if candidate.name == plan.algorithm)


def climb(workload: Workload, turns: int, budget: float) -> Ladder:
    """All rungs checked, then timed in turns, so that a disturbance meets all alike; the slow ones rest earlier."""
    ladder = build(workload, budget)
    for name, rung in ladder.rungs.items():
        if not (error := rung.error()) <= TOLERANCE:
            sys.exit(f"{name} is wrong on {workload}: its error is {error:.1e} of the largest output")
    for _ in range(turns):
        for rung in ladder.rungs.values():
            if sum(rung.turns) < budget / 2:
                rung.take_turn()
    return ladder


# -- showing -------------------------------------------------------------------------------------------------


def time_text(seconds: float) -> str:
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def speedup_text(ladder: Ladder, rung: Rung) -> str:
    ratio = ladder.rungs["naive"].seconds / rung.seconds
    return f"{float(f'{ratio:.2g}'):,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def machine() -> str:
    """Where the figures come from: a BLAS may hold kernels for a processor that are faster or slower by far."""
    config = pc.show_config(mode="dicts")
    pools = {f"{pool['library']} (core {pool['core']}, {pool['threads']} threads)" for pool in config["blas"]}
    blas = ", ".join(sorted(pools)) or "unknown BLAS"
    return f"NumPy {config['versions']['numpy']}, {blas}, Python {config['python']}, {config['processors']} processors"


def table(ladders: dict[Workload, Ladder]) -> str:
    """Times and speed-ups over naive, with what must be known to read them."""
    letters = "abcdefgh"[: len(ladders)]
    lines = [f"({letter}) {workload}" for letter, workload in zip(letters, ladders, strict=True)]
    lines += ["", f"{'':<16}" + "".join(f"{f'({letter})':>19}  " for letter in letters)]
    notes: dict[str, None] = {}  # in order, each once
    for name in (*pc.algorithms(), PEER):
        cells = []
        for letter, ladder in zip(letters, ladders.values(), strict=True):
            if rung := ladder.rungs.get(name):
                mark = ("~" if rung.part else "") + (">" if rung.chosen else "")
                cells.append(f"{mark:>2}{time_text(rung.seconds):>8}{speedup_text(ladder, rung):>9}  ")
                if rung.part:
                    notes[f"~ ({letter}) {name}: timed on {rung.part} of each image, times {rung.factor:.4g}"] = None
            else:
                cells.append(f"{'-':>19}  ")
                notes[f"- {ladder.refusals[name]}"] = None
        lines.append(f"{name:<16}" + "".join(cells).rstrip())
    lines += ["", "> the choice of algorithm='auto'", *notes]
    return "\n".join(lines)


ORDINARY, CHOSEN, BY_HAND, GREY = "#8fb3d9", "#1f5fa8", "#e8a33d", "#777777"


def draw_panel(axes: Axes, workload: Workload, ladder: Ladder) -> None:
    names = (*pc.algorithms(), PEER)
    fastest = min(rung.seconds for rung in ladder.rungs.values())
    axes.set_xscale("log")
    axes.set_xlim(fastest / 3, ladder.rungs["naive"].seconds * 50)  # room for the numbers beside the bars
    axes.set_ylim(len(names) - 0.4, -0.6)
    for row, name in enumerate(names):
        if rung := ladder.rungs.get(name):
            colour = BY_HAND if name == PEER else CHOSEN if rung.chosen else ORDINARY
            axes.barh(row, rung.seconds, color=colour, hatch="////" if rung.part else None, edgecolor="white")
            text = f" {time_text(rung.seconds)}   {speedup_text(ladder, rung)}"
            axes.text(rung.seconds, row, text, va="center", size=9)
        else:
            axes.text(fastest / 2.8, row, f"\N{EN DASH} {ladder.refusals[name]}", va="center", size=7, color=GREY)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(str(workload), loc="left", size=10, weight="bold")


def draw(ladders: dict[Workload, Ladder]) -> Figure:
    """A panel for each workload, its bars in the order of the ladder."""
    figure = Figure(figsize=(11, 1.7 + 0.5 * (len(pc.algorithms()) + 1)), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    panels = figure.subplots(2, 2, sharey=True)
    for axes, (workload, ladder) in zip(panels.flat, ladders.items(), strict=True):
        draw_panel(axes, workload, ladder)
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    figure.legend(
        handles=[
            Patch(color=CHOSEN, label="chosen by 'auto'"),
            Patch(color=ORDINARY, label="other methods"),
            Patch(color=BY_HAND, label="written by hand"),
            Patch(facecolor=ORDINARY, edgecolor="white", hatch="////", label="extrapolated from a part"),
        ],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    caption = "One convolution in float32: median times, and speed-ups over naive."
    figure.supxlabel(f"{caption}\n{machine()}", size=8, color=GREY)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every method of polyconv on four workloads.")
    parser.add_argument("--output", type=Path, default=Path("ladder.png"), help="the plot to write")
    parser.add_argument("--quick", action="store_true", help="smaller workloads and fewer turns")
    given = parser.parse_args()

    workloads = [workload.small() for workload in WORKLOADS] if given.quick else WORKLOADS
    turns, budget = (2, 0.05) if given.quick else (7, 1.0)
    print(machine(), end="\n\n")
    ladders = {workload: climb(workload, turns, budget) for workload in workloads}
    print(table(ladders))
    draw(ladders).savefig(given.output)
    print(f"\n{given.output}")


if __name__ == "__main__":
    main()
