"""A dataset of images, larger than memory if it likes, through a bank of filters: on one machine or many, by Dask.

    python examples/filter_dataset.py                             # 100 MB of photographs, which it makes first
    python examples/filter_dataset.py photos.zarr --make 60GB     # as many of them as you ask for
    python examples/filter_dataset.py my_photos/                  # a folder of images
    python examples/filter_dataset.py photos.zarr --cluster 4     # on four processes of this machine
    python examples/filter_dataset.py photos.zarr --scheduler tcp://head:8786
    python examples/filter_dataset.py photos.zarr --backend cupy  # block after block by way of a GPU

The answers of every filter are written to a Zarr array beside the source, one block of images after another. Stop it
when you like, and run the same line again: blocks that are there are not computed twice. Images of a folder that cannot
be read are named at the end. With several machines, all must see source and output under the same paths.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import zarr
from PIL import Image

import polyconv as pc

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # those that come with scikit-image
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

# -- the filters ---------------------------------------------------------------------------------------------


def filter_bank() -> np.ndarray:
    """Blur, two slopes and spots, ``(9, 9, 3, 4)``: each of all three colours, in the layout HWIO."""
    down, right = np.mgrid[-4:5, -4:5].astype(float)
    bell = np.exp(-(down**2 + right**2) / 8)
    bell /= bell.sum()
    spots = (down**2 + right**2 - 8) * bell
    filters = [bell, down * bell, right * bell, spots - spots.mean()]
    return np.stack([np.stack([f / 3] * 3, axis=-1) for f in filters], axis=-1).astype("float32")


def plan(images: Any, xp: Any = np) -> pc.Plan:
    """Every second answer of every filter to images ``(N, H, W, 3)``, of CuPy's arrays where ``xp`` is CuPy."""
    return pc.plan(images, xp.asarray(filter_bank()), layout="NHWC", padding="same", padding_mode="reflect", stride=2)


def responses(images: Any, xp: Any = np) -> Any:
    """The answers, ``(N, H / 2, W / 2, 4)``, to images of 0 to 255."""
    return plan(images, xp)(images, xp.asarray(filter_bank() / np.float32(255))).astype("float16")


def placed(images: Any, backend: str) -> tuple[Any, Any, Any]:
    """The images where they are convolved, whose library that is, and what brings answers back.

    A GPU holds no more of them than the blocks that are at work.
    """
    if backend == "numpy":
        return images, np, lambda y: y
    import cupy

    return images.map_blocks(cupy.asarray), cupy, lambda y: y.map_blocks(cupy.asnumpy)


# -- a job: blocks of images, each done once -----------------------------------------------------------------


class Job(NamedTuple):
    """An array to be written block by block, and a folder in which a note says of every block that it is there."""

    output: str
    blocks: int
    notes: str

    def note(self, block: int) -> Path:
        """The file that says that a block is there."""
        return Path(self.notes) / f"{block}.done"

    def done(self) -> set[int]:
        """The blocks that are there."""
        return {int(path.stem) for path in Path(self.notes).glob("*.done")}


def write(images: np.ndarray, job: Job, block_info: Any = None) -> np.ndarray:
    """Write one block, and then a note of it: whatever happens in between, the block is written again."""
    block, (start, stop) = block_info[0]["chunk-location"][0], block_info[0]["array-location"][0]
    zarr.open_array(job.output, mode="r+")[start:stop] = images
    waiting = job.note(block).with_suffix(".writing")
    with open(waiting, "w") as file:
        file.write(f"images {start} to {stop}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(waiting, job.note(block))
    return np.zeros((1,) * images.ndim, dtype="int8")


def begin(output: Path, images: Any, what: dict[str, Any]) -> Job:
    """The job that writes ``images`` to ``output``, where an earlier one may have been stopped.

    Exits if what is there was made otherwise.
    """
    notes = output.with_name(output.name + ".notes")
    what = {**what, "shape": list(images.shape), "dtype": str(images.dtype), "chunks": list(images.chunksize)}
    if output.exists():
        found = dict(zarr.open_array(str(output), mode="r").attrs)
        if found != what or not notes.is_dir():
            sys.exit(f"{output} is there, and was made otherwise; give another --output, or remove it and {notes}")
    else:
        notes.mkdir(parents=True, exist_ok=True)
        for note in notes.iterdir():
            note.unlink()
        making = output.with_name(output.name + ".making")
        zarr.create_array(
            str(making),
            shape=images.shape,
            chunks=images.chunksize,
            dtype=images.dtype,
            attributes=what,
            overwrite=True,
        )
        os.replace(making, output)
    return Job(str(output), images.numblocks[0], str(notes))


def run(job: Job, images: Any, nbytes: int, verb: str) -> None:
    """Compute and write the blocks that are not there yet, with a progress bar; exits with the reason if it cannot."""
    done = job.done()
    missing = [block for block in range(job.blocks) if block not in done]
    if done:
        print(f"{len(done)} of {job.blocks} blocks are there already")
    if not missing:
        return
    nothing = np.empty((0,) * images.ndim, "int8")
    written = images.map_blocks(write, job=job, chunks=(1,) * images.ndim, meta=nothing)
    start = time.perf_counter()
    try:
        with progress(job, len(done), nbytes / job.blocks, verb):
            written.blocks[missing].sum().compute()  # only what is missing is computed, and nothing of it is kept
    except (OSError, KeyboardInterrupt) as error:
        there = f"{len(job.done())} of {job.blocks} blocks are written"
        sys.exit(f"stopped: {str(error) or type(error).__name__}\n{there}; the same line goes on from there")
    seconds = time.perf_counter() - start
    amount = nbytes * len(missing) / job.blocks
    print(f"{verb} {len(missing)} blocks, {amount / 1e6:.0f} MB, in {seconds:.1f} s: {amount / 1e6 / seconds:.0f} MB/s")


@contextlib.contextmanager
def progress(job: Job, before: int, nbytes: float, verb: str) -> Iterator[None]:
    """A bar, on a terminal, that counts the notes: it works wherever the blocks are computed."""
    finished, start = threading.Event(), time.perf_counter()

    def show() -> None:
        done, seconds = len(job.done()), time.perf_counter() - start
        bar = "#" * (30 * done // job.blocks)
        rate = (done - before) * nbytes / seconds / 1e6
        left = (job.blocks - done) * seconds / (done - before) if done > before else math.inf
        remaining = f", {left:.0f} s left" if math.isfinite(left) else ""
        print(f"\r{verb} [{bar:<30}] {done}/{job.blocks} blocks, {rate:.0f} MB/s{remaining}   ", end="", flush=True)

    def watch() -> None:
        while not finished.wait(0.5):
            show()

    if not sys.stdout.isatty():
        yield
        return
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        show()
        print()


# -- where images come from ----------------------------------------------------------------------------------


def photographs(count: int, side: int, batch: int) -> Any:
    """Squares of real photographs, cut, turned, mirrored and lit at random, and the same every time."""
    import skimage.data

    originals = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]

    def cut(block_info: Any = None) -> np.ndarray:
        start, stop = block_info[None]["array-location"][0]
        images = np.empty((stop - start, side, side, 3), np.uint8)
        for i, image in enumerate(images):
            rng = np.random.default_rng([start + i, side])
            photo = originals[rng.integers(len(originals))]
            tiled = np.pad(photo, [(0, max(0, side - n)) for n in photo.shape[:2]] + [(0, 0)], mode="symmetric")
            top, left = (rng.integers(0, n - side + 1) for n in tiled.shape[:2])
            square = np.rot90(tiled[top : top + side, left : left + side], rng.integers(4))
            image[...] = np.clip(square[:, :: rng.choice([1, -1])] * rng.uniform(0.6, 1.3), 0, 255)
        return images

    chunks = (tuple(min(batch, count - i) for i in range(0, count, batch)), (side,), (side,), (3,))
    return da.map_blocks(cut, chunks=chunks, dtype=np.uint8, meta=np.empty((0,) * 4, np.uint8))


def read_image(path: str, side: int, unreadable: Path) -> np.ndarray:
    """A square of ``side`` from the middle of a picture, black beyond its edges; all black if it cannot be read."""
    square = np.zeros((side, side, 3), np.uint8)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises of bad files
        note = unreadable / f"{Path(path).name}.unreadable"
        note.write_text(json.dumps({"name": Path(path).name, "error": str(error)}))
        return square
    height, width = (min(side, n) for n in pixels.shape[:2])
    top, left = ((n - m) // 2 for n, m in zip(pixels.shape, (height, width), strict=False))
    down, right = (side - height) // 2, (side - width) // 2
    square[down : down + height, right : right + width] = pixels[top : top + height, left : left + width]
    return square


def folder(paths: list[str], side: int, batch: int, notes: Path) -> Any:
    """All pictures of a folder, read when they are wanted."""

    def read(block_info: Any = None) -> np.ndarray:
        start, stop = block_info[None]["array-location"][0]
        return np.stack([read_image(path, side, notes) for path in paths[start:stop]])

    chunks = (tuple(min(batch, len(paths) - i) for i in range(0, len(paths), batch)), (side,), (side,), (3,))
    return da.map_blocks(read, chunks=chunks, dtype=np.uint8, meta=np.empty((0,) * 4, np.uint8))


def make(source: Path, nbytes: int, side: int, batch: int) -> None:
    """Write a Zarr array of photographs of about ``nbytes``, or what of it is missing."""
    count = max(1, round(nbytes / (side * side * 3)))
    images = photographs(count, side, batch)
    job = begin(source, images, {"photographs": list(PHOTOGRAPHS)})
    run(job, images, images.nbytes, "made")


def opened(source: Path, side: int, batch: int, notes: Path) -> tuple[Any, dict[str, Any]]:
    """The images of a folder or a Zarr array, in batches, and what they are. Exits if there are none."""
    if (source / "zarr.json").exists() or (source / ".zarray").exists():
        stored = zarr.open_array(str(source), mode="r")
        if stored.ndim != 4 or stored.shape[-1] != 3:
            sys.exit(f"{source} has shape {stored.shape}; images of three colours are wanted, (N, H, W, 3)")
        made = Job(str(source), -(-stored.shape[0] // stored.chunks[0]), f"{source}.notes")
        if Path(made.notes).is_dir() and len(made.done()) < made.blocks:
            sys.exit(f"{source} was not made to its end; give the same --make again")
        return da.from_zarr(str(source), chunks=(batch, *stored.shape[1:])), {"source": source.name}
    if not source.is_dir():
        sys.exit(f"there is no folder and no Zarr array {source}; --make 100MB makes one")
    paths = sorted(str(path) for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        sys.exit(f"{source} has no images; they are known by {', '.join(sorted(SUFFIXES))}")
    return folder(paths, side, batch, notes), {"source": source.name, "images": [Path(path).name for path in paths]}


# -- the command ---------------------------------------------------------------------------------------------


def size_of(text: str) -> int:
    """``"100MB"`` in bytes."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    raise argparse.ArgumentTypeError(f"{text!r} is no size like 100MB or 60GB")


@contextlib.contextmanager
def machines(args: argparse.Namespace) -> Iterator[None]:
    """Threads of this process, processes of this machine, or a cluster that is there."""
    if args.cluster is None and args.scheduler is None:
        with dask.config.set(scheduler="threads"):
            yield
        return
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        where: Any = args.scheduler
        if where is None:
            where = stack.enter_context(
                LocalCluster(n_workers=args.cluster, threads_per_worker=1, processes=True, dashboard_address=None)
            )
        client = stack.enter_context(Client(where))
        print(f"{len(client.scheduler_info(n_workers=-1)['workers'])} workers at {client.scheduler.address}")
        yield


def main() -> None:
    """Make, read, convolve, write, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=Path("photos.zarr"), help="a folder, or a Zarr array")
    parser.add_argument(
        "--make", type=size_of, metavar="SIZE", help="make the source from photographs, say 100MB or 60GB"
    )
    parser.add_argument("--output", type=Path, help="by default the source's name and '-filtered.zarr'")
    parser.add_argument("--batch", type=int, default=16, help="images of a block")
    parser.add_argument(
        "--side", type=int, default=256, help="pixels along a side, of what is made or read from a folder"
    )
    parser.add_argument("--cluster", type=int, metavar="N", help="compute on N processes of this machine")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="compute on a cluster that is there")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="whose arrays blocks are")
    args = parser.parse_args()
    if args.batch < 1 or args.side < 8:
        parser.error("--batch must be 1 or more, and --side 8 or more")
    output = args.output or args.source.with_name(args.source.stem + "-filtered.zarr")
    with machines(args):
        if args.make or (args.source == Path("photos.zarr") and not args.source.exists()):
            make(args.source, args.make or size_of("100MB"), args.side, args.batch)
        filter_all(args.source, output, args.side, args.batch, args.backend)


def filter_all(source: Path, output: Path, side: int, batch: int, backend: str) -> None:
    """Convolve the images of ``source``, and write what comes of it to ``output``."""
    notes = output.with_name(output.name + ".notes")
    images, what = opened(source, side, batch, notes)
    number, height, width, _ = images.shape
    there, xp, back = placed(images, backend)
    y = back(responses(there, xp))
    print(f"{number} images of {height}x{width}, {images.nbytes / 1e6:.0f} MB, in {images.numblocks[0]} blocks")
    print(f"by {plan(there, xp).algorithm}, to {output}")
    run(begin(output, y, what), y, images.nbytes, "filtered")
    bad = [json.loads(path.read_text()) for path in sorted(notes.glob("*.unreadable"))]
    for one in bad:
        print(f"could not read {one['name']}: {one['error']}")
    if bad:
        print(f"{len(bad)} of {len(images)} images could not be read; they are black, and all others are there")


if __name__ == "__main__":
    main()
