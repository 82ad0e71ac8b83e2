"""The airspeed velocity suite: its benchmarks are found, run and published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tests" / "dashboard" / "page.js"
MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", MACOS)
REQUIRED = os.environ.get("POLYCONV_REQUIRE_BROWSER") == "1"  # then nothing here may be skipped
if not REQUIRED:
    pytest.importorskip("asv", reason="pip install -e '.[bench]'")


class View(NamedTuple):
    """What one view of the dashboard shows in a browser."""

    title: str
    links: list[str]  # to benchmarks, mostly
    series: list[int]  # the number of points in each series of the graph
    coloured: int  # how many pixels of the graph are neither blank nor of its axes and grid


def absent(reason: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


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
        absent("not a git checkout")
    folder = tmp_path_factory.mktemp("asv")
    config = json.loads((ROOT / "asv_benchmarks" / "asv.conf.json").read_text())
    config |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / "asv_benchmarks" / config["benchmark_dir"])}
    config |= {f"{name}_dir": str(folder / name) for name in ("env", "results", "html")}
    config["branches"] = ["HEAD"]
    (folder / "asv.conf.json").write_text(json.dumps(config))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    asv(folder, "machine", "--yes")
    chosen = r"overhead\.|layers\.LayersError.*'seed-keras'"
    quick = ("--quick", "--python=same", "--set-commit-hash", commit.strip(), "--show-stderr")
    printed = asv(folder, "run", *quick, "--bench", chosen)
    assert "failed" not in printed, printed
    suite = folder / "results" / "benchmarks.json"  # as though these were all: the page has no graphs for others
    known = json.loads(suite.read_text())
    ran = ("version", "overhead.", "layers.LayersError.")
    suite.write_text(json.dumps({name: about for name, about in known.items() if name.startswith(ran)}))
    asv(folder, "publish")
    return folder


@pytest.fixture(scope="module")
def browser() -> str:
    """The path of a Chromium for which page.js finds its npm packages."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        absent("no Chromium")
    packages = [PAGE.parent / "node_modules", *map(Path, os.environ.get("NODE_PATH", "").split(os.pathsep))]
    if not shutil.which("node") or not any((folder / "playwright-core").exists() for folder in packages):
        absent("npm install --prefix tests/dashboard")
    return found


def views(browser: str, html: Path, *fragments: str) -> list[View]:
    """``index.html#fragment``, each opened afresh, free of errors in the console, of scripts and of requests."""
    command = ["node", str(PAGE), browser, str(html), *fragments]
    env = {**os.environ, "HOME": str(html.parent)}
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert run.returncode == 0, run.stderr
    opened = json.loads(run.stdout)
    for fragment, view in zip(fragments, opened, strict=False):  # it stops at errors
        errors = view.pop("errors")
        assert not errors, f"index.html#{fragment}: " + "\n".join(errors)
    return [View(**view) for view in opened]


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


def test_browsers_show_the_page_and_its_graphs(published: Path, browser: str) -> None:
    """The page as published, but for the libraries that it loads from elsewhere; page.js says how they are replaced."""
    html = published / "html"
    names = sorted(json.loads((html / "index.json").read_text())["benchmarks"])
    fragments = [*names, "layers.LayersError.track_error?x-axis=layer"]  # the last one shows bars
    grid, table, regressions, *graphs = views(browser, html, "", "/summarylist", "/regressions", *fragments)
    assert sorted(grid.links) == [f"#{name}" for name in names]
    assert {link.partition("?")[0] for link in table.links if link.startswith("#")} == {*grid.links}
    assert regressions.links == ["regressions.xml"]
    assert [graph.title for graph in graphs] == [fragment.partition("?")[0] for fragment in fragments]
    for graph in graphs:
        assert sum(graph.series)
        assert graph.coloured
