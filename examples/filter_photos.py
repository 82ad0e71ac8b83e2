"""Photographs through a bank of filters: one call for each, in colour or grey, whatever its size.

    python examples/filter_photos.py                       # photographs that come with scikit-image
    python examples/filter_photos.py holiday.jpg cat.png   # your own

It writes one contact sheet: a row for every photograph, a column for every kind of filter. To add a filter,
add a column to ``COLUMNS``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage.data
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageOps

import polyconv as pc

SHIPPED = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins")  # the last two are grey
LONGEST = 640  # pixels along the longer side: larger photographs are made smaller first, to suit the sheet

# -- filters: square arrays of odd size, in the order of a correlation (nothing is turned around) ---------------


def grid(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of a filter's taps, down and to the right of its centre."""
    down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float)
    return down, right


def gaussian(sigma: float, radius: int) -> np.ndarray:
    """A blur: weights that sum to one."""
    down, right = grid(radius)
    bell = np.exp(-(down**2 + right**2) / (2 * sigma**2))
    return bell / bell.sum()


def laplacian_of_gaussian(sigma: float, radius: int) -> np.ndarray:
    """Positive at dark spots of about ``sigma``'s size, negative at bright ones, zero on even ground."""
    down, right = grid(radius)
    hat = (down**2 + right**2 - 2 * sigma**2) * gaussian(sigma, radius)
    return hat - hat.mean()


def gabor(angle: float, wavelength: float, sigma: float, radius: int) -> np.ndarray:
    """A wave under a bell, as a complex array: its real part answers to lines, its imaginary part to edges."""
    down, right = grid(radius)
    bell = gaussian(sigma, radius)
    wave = bell * np.exp(2j * np.pi * (right * np.cos(angle) + down * np.sin(angle)) / wavelength)
    return wave - bell * wave.sum()  # even ground gives zero


SOBEL = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
EMBOSS = np.array([[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])  # light from the upper left
GABORS = [gabor(angle, wavelength=5, sigma=2, radius=6) for angle in np.deg2rad([0, 45, 90, 135])]

# -- pictures: from a column's responses (H, W, colours, filters) to something to look at (H, W, 3) -------------

INK, PAPER = "#e8e6e3", "#101317"
HUES = np.array([to_rgb(colour) for colour in ("#ff5a5f", "#ffc145", "#2ed3a2", "#6d7dff")])  # one for each Gabor
COLD_AND_WARM = LinearSegmentedColormap.from_list("cold and warm", ["#bdeaff", "#2089c9", PAPER, "#d9622b", "#ffe3ae"])


def in_unit_range(values: np.ndarray) -> np.ndarray:
    """Magnitudes scaled to 0..1: the strongest half per cent saturates, and faint ones are lifted a little."""
    return np.clip(values / max(np.percentile(values, 99.5), 1e-6), 0, 1) ** 0.7


def as_it_is(responses: np.ndarray) -> np.ndarray:
    return np.clip(responses[..., 0], 0, 1)


def gradient_length(responses: np.ndarray) -> np.ndarray:
    return in_unit_range(np.hypot(responses[..., 0], responses[..., 1]))


def signed(responses: np.ndarray) -> np.ndarray:
    """Negative is cold, positive is warm, zero is dark; the colours of the photograph are averaged."""
    mean = responses[..., 0].mean(axis=2)
    return COLD_AND_WARM(0.5 + 0.5 * np.sign(mean) * in_unit_range(abs(mean)))[..., :3]


def orientation(responses: np.ndarray) -> np.ndarray:
    """Each orientation shines in its own hue, as brightly as its wave is strong, whatever the wave's phase."""
    lines, edges = np.split(responses, 2, axis=3)
    energy = np.hypot(lines, edges).mean(axis=2)
    return in_unit_range(energy @ HUES)


def relief(responses: np.ndarray) -> np.ndarray:
    """Slopes to the light and away from it, around a middle grey."""
    slopes = responses[..., 0]
    return np.clip(0.5 + 0.4 * slopes / max(np.percentile(abs(slopes), 99), 1e-6), 0, 1)


@dataclass(frozen=True)
class Column:
    """A kind of filter: its title, its kernels, and how to make a picture of their responses."""

    title: str
    kernels: Sequence[np.ndarray]
    picture: Callable[[np.ndarray], np.ndarray]


COLUMNS = (
    Column("Gaussian blur", [gaussian(sigma=2, radius=6)], as_it_is),
    Column("Sobel edges", [SOBEL, SOBEL.T], gradient_length),
    Column("Laplacian of Gaussian", [laplacian_of_gaussian(sigma=1.6, radius=6)], signed),
    Column("Gabor, four orientations", [g.real for g in GABORS] + [g.imag for g in GABORS], orientation),
    Column("Emboss", [EMBOSS], relief),
)

# -- the convolution ---------------------------------------------------------------------------------------------


def make_bank(kernels: Sequence[np.ndarray]) -> np.ndarray:
    """All kernels in one array ``(size, size, 1, filters)``, the smaller ones centred in a frame of zeros."""
    size = max(len(kernel) for kernel in kernels)
    framed = [np.pad(kernel, (size - len(kernel)) // 2) for kernel in kernels]
    return np.stack(framed, axis=-1)[:, :, np.newaxis].astype(np.float32)


def plan_for(photo: np.ndarray, bank: np.ndarray, algorithm: str = "auto") -> pc.Plan:
    """The plan for one photograph ``(H, W, colours, 1)``.

    The colours are spelled ``N``, a batch: every filter sees each of them by itself. ``C`` is what a filter sums
    over, one channel here, and becomes the axis of the filters in the result ``(H, W, colours, filters)``.
    """
    return pc.plan(photo, bank, layout="HWNC", padding="same", padding_mode="reflect", algorithm=algorithm)


# -- photographs in, contact sheet out ---------------------------------------------------------------------------


def as_photo(image: Image.Image) -> np.ndarray:
    """An image file of any kind as ``(H, W, colours, 1)``, values in 0..1, one colour if it is grey or else three."""
    image = ImageOps.exif_transpose(image)  # telephones store photographs lying on their side
    if image.mode.startswith(("I", "F")):  # 16 bits and more, whose white is anywhere: take the brightest pixel
        grey = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(np.clip(255 * grey / max(grey.max(), 1e-6), 0, 255).astype(np.uint8))
    image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    image.thumbnail((LONGEST, LONGEST))
    values = np.asarray(image, dtype=np.float32) / 255
    colours, opacity = values[..., :-1], values[..., -1:]
    return (colours * opacity + (1 - opacity))[..., np.newaxis]  # what is transparent shows white


def read_photo(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return as_photo(image)
    except Exception as error:  # a damaged file may fail in any way
        raise SystemExit(f"{path}: cannot be read as a photograph ({error})") from error


def shipped_photo(name: str) -> np.ndarray:
    return as_photo(Image.fromarray(getattr(skimage.data, name)()))


def draw_sheet(rows: dict[str, list[np.ndarray]]) -> Figure:
    """Every photograph with its pictures in a row of panels of one width, in its own proportions."""
    panel, gap, margin, header, dpi = 244, 8, 34, 112, 100  # in pixels but for dpi
    heights = [round(panel * pictures[0].shape[0] / pictures[0].shape[1]) for pictures in rows.values()]
    width = margin + (len(COLUMNS) + 1) * (panel + gap)
    height = header + sum(heights) + gap * len(heights)
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor=PAPER)

    def show(picture: np.ndarray, left: float, top: float, wide: float, high: float) -> None:
        place = (left / width, 1 - (top + high) / height, wide / width, high / height)
        axes = figure.add_axes(place)
        axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), aspect="auto")
        axes.axis("off")

    def write(text: str, x: float, y: float, size: float = 10, **style: object) -> None:
        figure.text(x / width, 1 - y / height, text, color=INK, fontsize=size, va="center", ha="center", **style)

    lefts = [margin + i * (panel + gap) for i in range(len(COLUMNS) + 1)]
    write("Photograph", lefts[0] + panel / 2, 30, size=12)
    for column, left in zip(COLUMNS, lefts[1:], strict=True):
        write(column.title, left + panel / 2, 30, size=12)
        tints = HUES if column.picture is orientation else [to_rgb(INK)] * 2
        kernels = column.kernels[: len(tints)]
        side, start = 46, left + panel / 2 - 27 * len(kernels)
        for i, (kernel, tint) in enumerate(zip(kernels, tints, strict=False)):
            weights = 0.5 + 0.5 * kernel / abs(kernel).max()
            show(weights[..., np.newaxis] * tint, start + 54 * i + 4, 50, side, side)

    top = header
    for (name, pictures), high in zip(rows.items(), heights, strict=True):
        write(name, margin / 2, top + high / 2, rotation=90)
        for picture, left in zip(pictures, lefts, strict=True):
            show(picture, left, top, panel, high)
        top += high + gap
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Convolve photographs with a bank of filters.")
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO", help="image files; by default, six that ship")
    parser.add_argument("--output", type=Path, default=Path("filters.png"), help="the contact sheet to write")
    parser.add_argument("--algorithm", default="auto", choices=("auto", *pc.algorithms()), metavar="NAME")
    given = parser.parse_args()

    if given.photos:
        photos = {path.name: read_photo(path) for path in given.photos}
    else:
        photos = {name: shipped_photo(name) for name in SHIPPED}
    bank = make_bank([kernel for column in COLUMNS for kernel in column.kernels])
    ends = np.cumsum([len(column.kernels) for column in COLUMNS])

    plans = {name: plan_for(photo, bank, given.algorithm) for name, photo in photos.items()}
    print(next(iter(plans.values())))
    print()
    rows = {}
    for name, photo in photos.items():
        start = time.perf_counter()
        responses = plans[name](photo, bank)
        seconds = time.perf_counter() - start
        shape = "x".join(map(str, photo.shape[:3]))
        print(f"{name:<16} {shape:>12}  {plans[name].algorithm:<12} {seconds:6.2f} s")
        parts = np.split(responses, ends[:-1], axis=3)
        rows[name] = [photo[..., 0], *(column.picture(part) for column, part in zip(COLUMNS, parts, strict=True))]
    draw_sheet(rows).savefig(given.output)
    print(f"\n{given.output}")


if __name__ == "__main__":
    main()
