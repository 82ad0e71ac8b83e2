"""What Winograd's method loses to rounding: error against block size, for several choices of points.

    python examples/winograd_error.py            # some seconds

Photographs' worth of random images with 64 channels are convolved by 3x3 kernels in float32, with blocks of one to
eight outputs, and compared with float64. Crosses are measured; lines are what polyconv predicts without running
anything, and what ``accuracy="fast"`` goes by. The transforms are the same in exact arithmetic, whatever the points:
only rounding tells them apart.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from itertools import chain, islice
from itertools import count as count_from
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import polyconv as pc
from polyconv.rounding import BOUNDS

CHANNELS, FILTERS, SIZE = 64, 16, 64
BLOCKS = range(1, 9)
DTYPE = "float32"


def integers(number: int) -> tuple[Fraction, ...]:
    """0, 1, -1, 2, -2, ...: simple matrices, as in Lavin & Gray's first examples."""
    return tuple(islice(chain([Fraction(0)], (Fraction(s * i) for i in count_from(1) for s in (1, -1))), number))


def with_reciprocals(number: int) -> tuple[Fraction, ...]:
    """0, 1, -1, 2, -2, 1/2, -1/2, 3, ...: large powers are met by small ones."""
    sizes = chain([Fraction(1)], (f for i in count_from(2) for f in (Fraction(i), Fraction(1, i))))
    return tuple(islice(chain([Fraction(0)], (s * f for f in sizes for s in (1, -1))), number))


def chebyshev(number: int) -> tuple[Fraction, ...]:
    """The nodes of Chebyshev's polynomials, which serve interpolation on an interval well."""
    nodes = np.cos((2 * np.arange(number) + 1) * np.pi / (2 * number))
    return tuple(Fraction(node).limit_denominator(64) for node in nodes)


POINTS = {
    "0, 1, -1, 2, -2, 3, ...": integers,
    "0, 1, -1, 2, -2, 1/2, ...": with_reciprocals,
    "Chebyshev's nodes": chebyshev,
    "polyconv's: evenly around the circle": None,
}
COLOURS = ("#c0504d", "#e8a33d", "#8a8a8a", "#1f5fa8")


def relative_error(y: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of the error over that of the result."""
    return float(np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)))


def measure() -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Measured and predicted errors of every point set and block, and the error of direct summation."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1, CHANNELS, SIZE, SIZE)).astype(DTYPE)
    w = rng.uniform(-1, 1, (FILTERS, CHANNELS, 3, 3)).astype(DTYPE)
    exact = pc.conv2d(x.astype("float64"), w.astype("float64"), algorithm="im2col")
    errors = {}
    for name, points in POINTS.items():
        errors[name] = []
        for m in BLOCKS:
            algorithm = pc.Winograd(m, None if points is None else points(m + 1))
            plan = pc.plan(x, w, algorithm=algorithm)
            errors[name].append((relative_error(plan(x, w), exact), plan.chosen.error))
    return errors, relative_error(pc.conv2d(x, w, algorithm="im2col"), exact)


def draw(errors: dict[str, list[tuple[float, float]]], direct: float) -> Figure:
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (name, pairs), colour in zip(errors.items(), COLOURS, strict=True):
        measured, predicted = zip(*pairs, strict=True)
        axes.plot(BLOCKS, predicted, color=colour, linewidth=1.5, label=name)
        axes.plot(BLOCKS, measured, "x", color=colour, markersize=8, markeredgewidth=2)
    for level, text in ((direct, "direct summation"), (BOUNDS[DTYPE], 'admitted by accuracy="fast"')):
        axes.axhline(level, color="black", linewidth=0.8, linestyle=":")
        axes.text(BLOCKS[-1], level, text, ha="right", va="bottom", size=8)
    axes.set_yscale("log")
    axes.set_xlabel("outputs of a block along each axis, m")
    axes.set_ylabel("relative error, root mean square")
    axes.set_title(f"Winograd F(m x m, 3 x 3), {CHANNELS} channels, {DTYPE}", loc="left", size=10, weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="points beside infinity (crosses: measured)", alignment="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Plot the rounding error of Winograd's method.")
    parser.add_argument("--output", type=Path, default=Path("winograd_error.png"), help="the plot to write")
    given = parser.parse_args()

    errors, direct = measure()
    print(f"direct summation (im2col): {direct:.1e}\n")
    print(f"{'m':<38}" + "".join(f"{m:>9}" for m in BLOCKS))
    for name, pairs in errors.items():
        print(f"{name:<38}" + "".join(f"{measured:>9.1e}" for measured, _ in pairs))
        print(f"{'  predicted':<38}" + "".join(f"{predicted:>9.1e}" for _, predicted in pairs))
    draw(errors, direct).savefig(given.output)
    print(f"\n{given.output}")


if __name__ == "__main__":
    main()
