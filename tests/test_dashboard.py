"""The airspeed velocity suite: its benchmarks are found, run and published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("asv", reason="pip install -e '.[bench]'")


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
    chosen = r"overhead\.|layers\.LayersError.*'seed-keras'"
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
