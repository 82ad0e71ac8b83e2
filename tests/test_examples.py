"""The examples do what they promise, run as a newcomer runs them; and what they compute is right."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import polyconv as pc

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage")
ndimage = pytest.importorskip("scipy.ndimage")

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example in ``folder``, every warning an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def succeed(folder: Path, script: str, *arguments: str) -> str:
    """What a run prints that must go well."""
    done = run(folder, script, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def load(script: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def filter_photos() -> ModuleType:
    return load("filter_photos.py")


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    return load("ladder.py")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")) / 255


def drawn_columns(sheet: np.ndarray) -> list[np.ndarray]:
    """The six columns of a contact sheet, without the heading and the names at the left."""
    return np.array_split(sheet[88:, 28:], 6, axis=1)


def colourfulness(values: np.ndarray) -> float:
    return float(np.ptp(values, axis=-1).mean())


# -- filter_photos.py ----------------------------------------------------------------------------------------


def test_photos_that_ship(tmp_path, filter_photos):
    printed = succeed(tmp_path, "filter_photos.py")
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    for name in filter_photos.SHIPPED:
        height, width, colours = map(int, lines[name][0].split("x"))
        assert max(height, width) <= filter_photos.LONGEST
        assert colours == (1 if name == "coins" else 3)
        assert lines[name][1] in pc.algorithms()
    assert all(f" {name} " in printed for name in pc.algorithms())  # the plan
    assert "least predicted time" in printed

    sheet = pixels(tmp_path / "filters.png")
    assert (tmp_path / "filters.png").stat().st_size < 1.5e6
    assert sheet.shape[1] > 1000
    assert sheet.shape[0] > 600
    photograph, blurred, *others = columns = drawn_columns(sheet)
    assert all(column.std() > 0.05 for column in columns)
    for band in np.array_split(sheet[88:], len(filter_photos.SHIPPED), axis=0):
        assert band.std() > 0.1
    assert abs(photograph.mean() - blurred.mean()) < 0.01
    assert all(abs(photograph.mean() - other.mean()) > 0.01 for other in others)


def test_ones_own_photos(tmp_path):
    rng = np.random.default_rng(0)
    for mode, channels in (("L", ()), ("RGB", (3,)), ("RGBA", (4,))):
        values = rng.integers(0, 256, (40, 60, *channels), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"my {mode}.png")
    names = [f"my {mode}.png" for mode in ("L", "RGB", "RGBA")]
    printed = succeed(tmp_path, "filter_photos.py", *names, "--output", "mine.png", "--algorithm", "taps")
    for name, colours in zip(names, (1, 3, 3), strict=True):
        (line,) = (line for line in printed.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[:2] == [f"40x60x{colours}", "taps"]
    photographs = np.array_split(drawn_columns(pixels(tmp_path / "mine.png"))[0], 3, axis=0)
    grey, *coloured = (colourfulness(photograph[20:-20, 20:-20]) for photograph in photographs)
    assert grey == 0
    assert min(coloured) > 0.05
    assert not (tmp_path / "filters.png").exists()


def damaged(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:1000])
    (folder / "words.jpg").write_text("not a photograph")
    Image.new("L", (5, 50)).save(folder / "narrow.png")
    Image.new("L", (50, 50)).save(folder / "good.png")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.png"], "absent.png: cannot be read as a photograph: No such file"),
        (["good.png", "cut.png"], "cut.png: cannot be read as a photograph: image file is truncated"),
        (["words.jpg"], "words.jpg: cannot be read as a photograph: cannot identify image file"),
        (["narrow.png"], "narrow.png: padding (7, 7) of axis W is too wide"),
        (["good.png", "--algorithm", "pointwise"], "pointwise takes kernels of one tap"),
        (["good.png", "--output", "absent/sheet.png"], "absent/sheet.png: cannot be written: No such file"),
    ],
)
def test_a_mistake_is_named_in_one_line(arguments, reason, tmp_path):
    damaged(tmp_path)
    done = run(tmp_path, "filter_photos.py", *arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "filters.png").exists()


@pytest.mark.parametrize("name", ["chelsea", "coins"])
def test_responses_are_scipys(name, filter_photos):
    photo = filter_photos.shipped_photo(name)
    bank = filter_photos.make_bank([filter_photos.SOBEL, filter_photos.gaussian(sigma=2.5, radius=7)])
    responses = filter_photos.plan_for(photo, bank)(photo, bank)
    assert responses.shape == (*photo.shape[:3], 2)
    for i, kernel in enumerate((filter_photos.SOBEL, filter_photos.gaussian(sigma=2.5, radius=7))):
        expected = ndimage.correlate(photo[..., 0].astype(float), kernel[:, :, np.newaxis], mode="mirror")
        assert np.allclose(responses[..., i], expected, rtol=0, atol=1e-5)


def test_even_ground_answers_to_the_blur_alone(filter_photos):
    photo = np.full((20, 30, 3, 1), 0.7, dtype=np.float32)
    bank = filter_photos.make_bank([kernel for column in filter_photos.COLUMNS for kernel in column.kernels])
    responses = filter_photos.plan_for(photo, bank)(photo, bank)
    assert np.allclose(responses[..., 0], 0.7, atol=1e-5)
    assert np.allclose(responses[..., 1:], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "colours"),
    [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("F", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_files_of_every_kind(mode, colours, tmp_path, filter_photos):
    ramp = np.tile(np.linspace(0, 255, 32), (8, 1))
    if mode == "I;16":
        image = Image.fromarray((ramp * 100).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray((ramp / 1000).astype(np.float32))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)
    image.save(tmp_path / "ramp.tif")
    photo = filter_photos.read_photo(tmp_path / "ramp.tif")
    assert photo.shape == (8, 32, colours, 1)
    assert photo.dtype == np.float32
    if mode != "1":  # which is dithered
        assert np.allclose(photo[0, :, 0, 0], ramp[0] / 255, atol=0.02 if mode != "P" else 0.2)


def test_what_is_transparent_shows_white_and_telephones_lie_on_their_side(tmp_path, filter_photos):
    assert filter_photos.as_photo(Image.new("RGBA", (9, 9), (0, 0, 0, 0))).min() == 1
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "lying.jpg", exif=exif)
    assert filter_photos.read_photo(tmp_path / "lying.jpg").shape == (40, 20, 3, 1)


# -- ladder.py -----------------------------------------------------------------------------------------------


def test_ladder(tmp_path):
    printed = succeed(tmp_path, "ladder.py", "--quick", "--output", "rungs.png")
    lines = printed.splitlines()
    assert "core" in lines[0]
    assert [line[:4] for line in lines if line.startswith("(")] == ["(a) ", "(b) ", "(c) ", "(d) "]
    for name in (*pc.algorithms(), "numpy (8 lines)"):
        (row,) = (line for line in lines if line.startswith(f"{name} "))
        cells = row.removeprefix(name).split()
        assert sum(cell == "-" or cell.endswith("x") for cell in cells) == 4  # speed-ups, but for what cannot run
        if name in ("pointwise", "depthwise"):
            assert cells == ["-"] * 4
            assert f"- {name} takes " in printed
    (naive,) = (line for line in lines if line.startswith("naive "))
    assert naive.count("~") == 4
    assert naive.count(" 1x") == 4
    assert sum(line.count(" > ") for line in lines) == 4

    plot = pixels(tmp_path / "rungs.png")
    assert min(plot.shape[:2]) > 500
    for half in np.array_split(plot, 2, axis=0):
        for panel in np.array_split(half, 2, axis=1):
            assert panel.std() > 0.1
            assert colourfulness(panel) > 0.02


def test_the_ladder_believes_no_wrong_method(ladder, monkeypatch):
    right = ladder.numpy_nhwc
    monkeypatch.setattr(ladder, "numpy_nhwc", lambda *arrays: right(*arrays) * np.float32(1.0001))
    with pytest.raises(SystemExit, match="is wrong on 2 x 24x24x3"):
        ladder.climb(ladder.WORKLOADS[0].small(), turns=1, budget=0.01)


def test_every_method_has_a_rung_or_a_reason(ladder):
    found = ladder.build(ladder.WORKLOADS[2].small(), budget=0.01)
    assert set(found.rungs) | set(found.refusals) == {*pc.algorithms(), ladder.PEER}
    assert found.rungs["naive"].factor > 1
    assert all(rung.factor == 1 for name, rung in found.rungs.items() if not rung.part)
    assert sum(rung.chosen for rung in found.rungs.values()) == 1


# -- winograd_error.py ---------------------------------------------------------------------------------------


def test_winograd_error(tmp_path):
    printed = succeed(tmp_path, "winograd_error.py", "--output", "error.png")
    rows = [line[38:].split() for line in printed.splitlines() if line.count("e-0") >= 8]
    errors = np.array(rows, dtype=float)  # measured and predicted in turn, a column for each block
    assert errors.shape == (8, 8)
    measured, predicted = errors[::2], errors[1::2]
    assert (np.abs(np.log2(predicted / measured)) < 1).all()
    assert (measured[-1] <= 1.05 * measured.min(axis=0)).all()  # polyconv's points are the last, and the best
    assert pixels(tmp_path / "error.png").std() > 0.05


# -- filter_dataset.py: from end to end, stopped, killed, with a full disk and with bad images -------------------------


@pytest.fixture(scope="module")
def filter_dataset() -> ModuleType:
    pytest.importorskip("dask.array")
    pytest.importorskip("zarr")
    return load("filter_dataset.py")


def stored(folder: Path, name: str) -> np.ndarray:
    import zarr

    return np.asarray(zarr.open_array(str(folder / name), mode="r")[:])


def filtered(images: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """What the example promises, in memory and by another algorithm."""
    y = pc.conv2d(
        images.astype("float32"), bank / 255, layout="NHWC", padding="same", padding_mode="reflect", stride=2,
        algorithm="tensordot",
    )  # fmt: skip
    return y.astype("float16")


def right(folder: Path, filter_dataset: ModuleType, source: str = "photos") -> None:
    """The store holds the answers to what the source holds."""
    images = stored(folder, f"{source}.zarr")
    assert images.std() > 20  # photographs, and not zeros
    y = stored(folder, f"{source}-filtered.zarr")
    assert y.astype("float32").std() > 0.01
    np.testing.assert_allclose(y, filtered(images, filter_dataset.filter_bank()), rtol=2e-3, atol=2e-3)


SMALL = ("--make", "1.5MB", "--side", "64", "--batch", "16")  # 122 images, the last block smaller


def test_a_dataset_from_end_to_end(tmp_path: Path, filter_dataset: ModuleType) -> None:
    out = succeed(tmp_path, "filter_dataset.py", *SMALL)
    assert "122 images of 64x64, 1 MB, in 8 blocks" in out
    assert "filtered 8 blocks" in out
    right(tmp_path, filter_dataset)
    import zarr

    store = zarr.open_array(str(tmp_path / "photos-filtered.zarr"), mode="r")
    assert store.chunks == (16, 32, 32, 4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos-filtered.zarr").rglob("*")}
    again = succeed(tmp_path, "filter_dataset.py", *SMALL)
    assert again.count("8 of 8 blocks are there already") == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "photos-filtered.zarr").rglob("*")} == before


def test_a_dataset_on_processes(tmp_path: Path, filter_dataset: ModuleType) -> None:
    pytest.importorskip("distributed")
    done = run(tmp_path, "filter_dataset.py", *SMALL, "--cluster", "2")
    assert done.returncode == 0, done.stderr
    assert "2 workers at" in done.stdout
    right(tmp_path, filter_dataset)


CUPY_OF_NUMPY = """
import os
import numpy

asarray = numpy.array

class ndarray:
    pass

def asnumpy(y):
    if y.size:
        with open(os.environ["BLOCKS"], "a") as blocks:
            print(len(y), file=blocks)
    return numpy.array(y)
"""


def test_a_dataset_by_way_of_a_gpu(tmp_path: Path, filter_dataset: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block goes there and comes back; NumPy stands in for CuPy."""
    log = tmp_path / "blocks.txt"
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "cupy.py").write_text(CUPY_OF_NUMPY)
    monkeypatch.setenv("BLOCKS", str(log))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    succeed(tmp_path, "filter_dataset.py", *SMALL, "--backend", "cupy")
    right(tmp_path, filter_dataset)
    notes = list((tmp_path / "photos-filtered.zarr.notes").glob("*.done"))
    assert len(log.read_text().split()) >= len(notes) > 1


def test_a_killed_run_resumes(tmp_path: Path, filter_dataset: ModuleType) -> None:
    """SIGKILL while it writes: what was noted stays as it is, and the rest is computed."""
    succeed(tmp_path, "filter_dataset.py", "--make", "12MB", "--side", "64", "--batch", "8", "--output", "other.zarr")
    arguments = [str(EXAMPLES / "filter_dataset.py"), "--side", "64", "--batch", "8"]
    running = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL)
    notes, until = tmp_path / "photos-filtered.zarr.notes", time.monotonic() + 60
    while len([*notes.glob("*.done")]) < 3:
        assert running.poll() is None
        assert time.monotonic() < until
    running.kill()
    running.wait()
    there = {path: path.stat().st_mtime_ns for path in notes.glob("*.done")}
    assert 3 <= len(there) < 123
    out = succeed(tmp_path, "filter_dataset.py", "--side", "64", "--batch", "8")
    assert f"{len(there)} of 123 blocks are there already" in out
    assert f"filtered {123 - len(there)} blocks" in out
    assert {path: path.stat().st_mtime_ns for path in there} == there
    right(tmp_path, filter_dataset)


def test_a_full_disk_resumes(tmp_path: Path, filter_dataset: ModuleType) -> None:
    """No file may grow beyond a limit: the first block cannot be written, and nothing says that it was."""
    pytest.importorskip("resource")
    succeed(tmp_path, "filter_dataset.py", *SMALL, "--output", "other.zarr")
    limited = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    full = subprocess.run(
        [sys.executable, "-c", limited, str(EXAMPLES / "filter_dataset.py"), "--batch", "16"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert full.returncode == 1
    assert "stopped: [Errno 27] File too large" in full.stderr
    assert "0 of 8 blocks are written; the same line goes on from there" in full.stderr
    assert "filtered 8 blocks" in succeed(tmp_path, "filter_dataset.py", "--batch", "16")
    right(tmp_path, filter_dataset)


def test_images_that_cannot_be_read_are_named(tmp_path: Path, filter_dataset: ModuleType) -> None:
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    squares = rng.integers(0, 256, (9, 40, 40, 3)).astype(np.uint8)
    for i, square in enumerate(squares):
        Image.fromarray(square).save(pictures / f"{i}.png")
    (pictures / "3.png").write_bytes(b"no picture at all")
    (pictures / "7.png").write_bytes((pictures / "7.png").read_bytes()[:2000])  # cut off
    (pictures / "notes.txt").write_text("no image, and none by its name")
    out = succeed(tmp_path, "filter_dataset.py", "pictures", "--side", "32", "--batch", "4")
    assert "could not read 3.png: cannot identify image file" in out
    assert "could not read 7.png:" in out
    assert "2 of 9 images could not be read; they are black, and all others are there" in out
    expected = filtered(squares[:, 4:36, 4:36], filter_dataset.filter_bank())
    expected[[3, 7]] = 0
    np.testing.assert_allclose(stored(tmp_path, "pictures-filtered.zarr"), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no folder and no Zarr array nowhere; --make 100MB makes one"),
        (["empty"], "empty has no images; they are known by"),
        (["--make", "lots"], "'lots' is no size like 100MB or 60GB"),
        (["--batch", "0"], "--batch must be 1 or more"),
    ],
)
def test_what_a_dataset_is_not(tmp_path: Path, filter_dataset: ModuleType, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, "filter_dataset.py", *arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_dataset_is_not_written_over(tmp_path: Path, filter_dataset: ModuleType) -> None:
    succeed(tmp_path, "filter_dataset.py", *SMALL)
    done = run(tmp_path, "filter_dataset.py", "--batch", "5")
    assert done.returncode == 1
    assert "photos-filtered.zarr is there, and was made otherwise; give another --output" in done.stderr


# -- train_digits.py ------------------------------------------------------------------------------------------------


def test_a_network_learns_to_read_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out = succeed(tmp_path, "train_digits.py")
    right = float(out.partition("%")[0])
    assert "% of 359 held-out digits" in out
    assert right >= 97
    with Image.open(tmp_path / "digits.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_a_network_learns_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("dask.array")
    digits = load("train_digits.py")
    whole, right = digits.train("numpy", 2, 0)
    chunks, also = digits.train("dask", 2, 0)
    assert len(whole) == len(chunks) == 44
    np.testing.assert_allclose(chunks[:10], whole[:10], rtol=1e-3)  # then rounding goes ways of its own
    assert whole[-1] < 0.5 * whole[0]
    assert abs(right - also) < 0.03
