"""The README's lines of Python: they run, and make what they say."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polyconv as pc

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the README's lines take for granted."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shapes = {
        "photos": (4, 40, 50, 3), "filters": (3, 3, 3, 16), "photo": (40, 50, 3), "kernel": (5, 5), "image": (20, 21),
        "x": (2, 8, 32, 32), "w": (8, 8, 3, 3), "grouped": (8, 2, 3, 3), "bias": (8,), "y": (2, 8, 32, 32),
        "dy": (2, 8, 32, 32), "volumes": (2, 5, 6, 7, 3), "w3": (3, 3, 3, 3, 4), "signals": (2, 3, 50), "w1": (4, 3, 5),
    }  # fmt: skip
    yield {"np": np, "pc": pc} | {name: rng.random(shape, "float32") for name, shape in shapes.items()}
    pc.forget_wisdom()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition("\n")[0][:40])
def test_it_runs(block: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    if block.startswith(">>>"):
        example = doctest.DocTestParser().get_doctest(block, names, "README", str(README), 0)
        assert doctest.DocTestRunner().run(example).failed == 0
        return
    for library in re.findall(r"^import (\w+)", block, re.MULTILINE):
        pytest.importorskip(library)
    if "photos.zarr" in block:
        pytest.importorskip("zarr")
        names["da"] = pytest.importorskip("dask.array")
        names["da"].from_array(names["photos"], chunks=(2, 20, -1, -1)).to_zarr("photos.zarr")
    exec(block, names)
    if "photos.zarr" in block:
        expected = pc.conv2d(np.asarray(names["photos"]), names["filters"], layout="NHWC", padding="same")
        np.testing.assert_allclose(names["da"].from_zarr("answers.zarr"), expected, rtol=1e-4)
    for said in re.findall(r"print\(.*\)  # (\(.*\))", block):
        assert said in capsys.readouterr().out


def test_what_it_says_of_scipy() -> None:
    signal, ndimage = pytest.importorskip("scipy.signal"), pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    x, even, odd = rng.random((9, 11)), rng.random((4, 4)), rng.random((3, 5))
    for w, padding in ((even, "same_lower"), (odd, "same_lower"), (odd, "same")):
        found = pc.conv(x, w, layout="HW", flip_kernel=True, padding=padding)
        np.testing.assert_allclose(found, signal.convolve2d(x, w, "same"))
    np.testing.assert_allclose(pc.conv(x, odd, layout="HW", flip_kernel=True), signal.convolve2d(x, odd, "valid"))
    np.testing.assert_allclose(pc.conv(x, odd, layout="HW"), signal.correlate2d(x, odd, "valid"))
    for ours, theirs in (("symmetric", "reflect"), ("reflect", "mirror")):
        found = pc.conv(x, odd, layout="HW", padding="same", padding_mode=ours)
        np.testing.assert_allclose(found, ndimage.correlate(x, odd, mode=theirs))


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
