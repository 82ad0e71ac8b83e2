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

import numpy as np
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba_array
from matplotlib.figure import Figure
from PIL import Image, ImageOps

import polyconv as pc

SHIPPED = ("astronaut", "chelsea", "coffee", "rocket", "coins")  # the last is grey
LONGEST = 460  # pixels along the longer side: larger photographs are made smaller first, to suit the sheet

# -- filters: square arrays of odd size, in the order of a correlation (nothing is turned around) ------------


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


def emboss(sigma: float, radius: int) -> np.ndarray:
    """The slope towards the lower right, as if a lamp stood there."""
    down, right = grid(radius)
    return (down + right) * gaussian(sigma, radius)


SOBEL = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
GABORS = [gabor(angle, wavelength=6, sigma=2.4, radius=7) for angle in np.deg2rad([0, 45, 90, 135])]

# -- pictures: from a column's responses (H, W, colours, filters) to something to look at (H, W, 3) ----------

INK, PAPER = "#e8e6e3", "#101317"
HUES = ("#ff5a5f", "#ffc145", "#2ed3a2", "#6d7dff")  # one for each Gabor
COLD_AND_WARM = LinearSegmentedColormap.from_list("cold and warm", ["#bdeaff", "#2089c9", PAPER, "#d9622b", "#ffe3ae"])


def scaled(values: np.ndarray) -> np.ndarray:
    """Values divided so that magnitudes come to 0..1; the strongest one per cent saturates."""
    return np.clip(values / max(np.percentile(abs(values), 99), 1e-6), -1, 1)


def as_it_is(responses: np.ndarray) -> np.ndarray:
    return np.clip(responses[..., 0], 0, 1)


def gradient_length(responses: np.ndarray) -> np.ndarray:
    return scaled(np.hypot(responses[..., 0], responses[..., 1])) ** 0.7


def signed(responses: np.ndarray) -> np.ndarray:
    """Negative is cold, positive is warm, zero is dark; the colours of the photograph are averaged."""
    return COLD_AND_WARM(0.5 + 0.5 * scaled(responses[..., 0].mean(axis=2)))[..., :3]


def orientation(responses: np.ndarray) -> np.ndarray:
    """Each orientation shines in its own hue, as brightly as its wave is strong, whatever the wave's phase."""
    lines, edges = np.split(responses, 2, axis=3)
    strength = np.hypot(lines, edges).mean(axis=2)
    share = strength**4 / np.maximum((strength**4).sum(axis=2, keepdims=True), 1e-12)
    return share @ to_rgba_array(HUES)[:, :3] * scaled(strength.max(axis=2, keepdims=True)) ** 0.7


def relief(responses: np.ndarray) -> np.ndarray:
    """Slopes to the light and away from it, around a middle grey."""
    return 0.5 + 0.5 * np.tanh(1.5 * scaled(responses[..., 0]))


@dataclass(frozen=True)
class Column:
    """A kind of filter: its title, its kernels, how to make a picture of their responses, and how to show them.

    Above the column stand as many of the kernels as there are tints.
    """

    title: str
    kernels: Sequence[np.ndarray]
    picture: Callable[[np.ndarray], np.ndarray]
    tints: Sequence[str] = (INK,)


COLUMNS = (
    Column("Gaussian blur", [gaussian(sigma=2.5, radius=7)], as_it_is),
    Column("Sobel edges", [SOBEL, SOBEL.T], gradient_length, tints=(INK, INK)),
    Column("Laplacian of Gaussian", [laplacian_of_gaussian(sigma=1.8, radius=7)], signed),
    Column("Gabor, by orientation", [g.real for g in GABORS] + [g.imag for g in GABORS], orientation, tints=HUES),
    Column("Emboss", [emboss(sigma=1, radius=2)], relief),
)

# -- the convolution -----------------------------------------------------------------------------------------


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


def pictures(responses: np.ndarray) -> list[np.ndarray]:
    """One picture for each column, from the responses of the whole bank."""
    ends = np.cumsum([len(column.kernels) for column in COLUMNS])
    parts = np.split(responses, ends[:-1], axis=3)
    return [column.picture(part) for column, part in zip(COLUMNS, parts, strict=True)]


# -- photographs in, contact sheet out -----------------------------------------------------------------------


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
        reason = getattr(error, "strerror", None) or error
        sys.exit(f"{path}: cannot be read as a photograph: {reason}")


def shipped_photo(name: str) -> np.ndarray:
    return as_photo(Image.fromarray(getattr(skimage.data, name)()))


def draw_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], panel: int) -> np.ndarray:
    """The pixels of the sheet: each photograph and its pictures in a row of panels, in their own proportions."""
    gap, margin, header = 6, 28, 88  # in pixels, as is the width of a panel and every length here
    lefts = [margin + i * (panel + gap) for i in range(len(COLUMNS) + 1)]
    heights = [round(panel * pictures[0].shape[0] / pictures[0].shape[1]) for _, pictures in rows]
    width, height = lefts[-1] + panel + gap, header + sum(heights) + gap * len(heights)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)

    def show(picture: np.ndarray, left: float, top: float, wide: float, high: float) -> None:
        axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), aspect="auto")
        axes.axis("off")

    def write(text: str, x: float, y: float, rotation: float = 0) -> None:
        figure.text(x / width, 1 - y / height, text, rotation=rotation, color=INK, size=10, va="center", ha="center")

    write("Photograph", lefts[0] + panel / 2, 20)
    for column, left in zip(COLUMNS, lefts[1:], strict=True):
        write(column.title, left + panel / 2, 20)
        side, start = 39, left + (panel - 45 * len(column.tints) + 6) / 2
        for i, (kernel, tint) in enumerate(zip(column.kernels, column.tints, strict=False)):
            brightness = 0.5 + 0.5 * kernel / abs(kernel).max()
            show(brightness[..., np.newaxis] * to_rgb(tint), start + 45 * i, 38, side, side)

    top = header
    for (name, pictures), high in zip(rows, heights, strict=True):
        write(name, margin / 2, top + high / 2, rotation=90)
        for picture, left in zip(pictures, lefts, strict=True):
            show(picture, left, top, panel, high)
        top += high + gap
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def main() -> None:
    names = ("auto", *pc.algorithms())
    parser = argparse.ArgumentParser(description="Convolve photographs with a bank of filters.")
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO", help="image files; by default, some that ship")
    parser.add_argument("--output", type=Path, default=Path("filters.png"), help="the contact sheet to write")
    parser.add_argument("--algorithm", default="auto", choices=names, metavar="NAME", help=", ".join(names))
    given = parser.parse_args()

    if given.photos:
        photos, panel = [(path.name, read_photo(path)) for path in given.photos], 320
    else:
        photos, panel = [(name, shipped_photo(name)) for name in SHIPPED], 180
    bank = make_bank([kernel for column in COLUMNS for kernel in column.kernels])
    rows: list[tuple[str, list[np.ndarray]]] = []
    longest = max(len(name) for name, _ in photos)
    for name, photo in photos:
        try:
            plan = plan_for(photo, bank, given.algorithm)
        except ValueError as error:  # the photograph is smaller than the filters, say
            sys.exit(f"{name}: {error}")
        if not rows:
            print(plan, end="\n\n")
        start = time.perf_counter()
        responses = plan(photo, bank)
        seconds = time.perf_counter() - start
        print(f"{name:<{longest}} {'x'.join(map(str, photo.shape[:3])):>12}  {plan.algorithm:<12} {seconds:6.2f} s")
        rows.append((name, [photo[..., 0], *pictures(responses)]))
    try:
        Image.fromarray(draw_sheet(rows, panel)).save(given.output, optimize=True)
    except (OSError, ValueError) as error:  # no such folder, or a kind of file that Pillow does not write
        sys.exit(f"{given.output}: cannot be written: {getattr(error, 'strerror', None) or error}")
    print(f"\n{given.output}")


if __name__ == "__main__":
    main()
