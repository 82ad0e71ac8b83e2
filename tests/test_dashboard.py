"""The airspeed velocity suite: its benchmarks are found, run, published, and shown by a browser without complaint."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("asv", reason="pip install -e '.[bench]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
HEADLESS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1200,900"),
]


def asv(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "HOME": str(folder), "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "asv", *arguments, "--config", str(folder / "asv.conf.json")]
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dashboard of a few benchmarks, each run once; a folder with ``html`` in it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("asv")
    config = json.loads((ROOT / "asv_benchmarks" / "asv.conf.json").read_text())
    config |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / "asv_benchmarks" / config["benchmark_dir"])}
    config |= {f"{name}_dir": str(folder / name) for name in ("env", "results", "html")}
    config["branches"] = ["HEAD"]
    (folder / "asv.conf.json").write_text(json.dumps(config))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    asv(folder, "machine", "--yes")
    chosen = r"overhead\.|layers\.LayersError.*"
    quick = ("--quick", "--python=same", "--set-commit-hash", commit.strip(), "--show-stderr")
    printed = asv(folder, "run", *quick, "--bench", chosen)
    assert "failed" not in printed, printed
    asv(folder, "publish")
    return folder


def test_every_benchmark_is_found(tmp_path: Path) -> None:
    config = json.loads((ROOT / "asv_benchmarks" / "asv.conf.json").read_text())
    config |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / "asv_benchmarks" / config["benchmark_dir"])}
    (tmp_path / "asv.conf.json").write_text(json.dumps(config))
    asv(tmp_path, "machine", "--yes")
    asv(tmp_path, "check", "--python=same")


def test_results_are_published(published: Path) -> None:
    index = json.loads((published / "html" / "index.json").read_text())
    assert index["project"] == "polyconv"
    names = {*index["benchmarks"]}
    assert any(name.startswith("overhead.") for name in names)
    assert "layers.LayersError.track_error" in names
    errors = index["benchmarks"]["layers.LayersError.track_error"]
    assert errors["param_names"] == ["layer", "algorithm", "dtype", "layout"]
    values = [json.loads(path.read_text()) for path in (published / "html" / "graphs").rglob("*track_error*.json")]
    assert any(entry[1] for graph in values for entry in graph)


@pytest.fixture
def address(published: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(published / "html"))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_shows_graphs_and_no_error(published: Path, address: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    for page, wanted in (("", "layers.LayersError"), ("#layers.LayersError.track_error", "<canvas")):
        shot = tmp_path / "page.png"
        options = [*HEADLESS, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--dump-dom"]
        run = subprocess.run([BROWSER, *options, f"{address}/{page}"], capture_output=True, text=True, timeout=120)
        complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line and re.search("error", line, re.I)]
        assert not complaints
        assert wanted in run.stdout
