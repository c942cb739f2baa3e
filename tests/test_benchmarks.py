"""The scripts under `benchmarks/` run: at a tiny size, where their figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_curate_without_peers(tmp_path: Path) -> None:
    tiny = ["--images", "2", "--rounds", "1", "--rows", "40", "--tmp", tmp_path, "--json", tmp_path / "f.json"]
    command = [sys.executable, BENCHMARKS / "curate.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr  # for nothing that was not measured is met
    record = json.loads((tmp_path / "f.json").read_text())
    lines = {line["what"]: line for line in record["lines"]}
    unmeasured = {what for what, line in lines.items() if line["value"] is None}
    assert unmeasured == {what for what in lines if "imagededup" in what or "juicer" in what or "dj-process" in what
                          or "cleanvision" in what}
    assert len(unmeasured) == 10 and not any(lines[what]["met"] for what in unmeasured)
    assert all("--peers is not given" in lines[what]["note"] for what in unmeasured)
    assert "9 not measured" in done.stdout  # of one there is no bar
    assert all(line["met"] for what, line in lines.items() if what.startswith(("recall of", "edit dedup, one of")))
    assert record["numbers"]["recall"]["table"]["q20"]["edittools"] == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "f.json"]


def test_curate_with_peers_that_cannot_be_loaded(tmp_path: Path) -> None:
    """This Python has none of them; libjpeg-turbo is there."""
    tiny = ["--images", "1", "--rounds", "1", "--only", "photometric", "--tmp", tmp_path, "--peers", sys.executable]
    command = [sys.executable, BENCHMARKS / "curate.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "NOT MEASURED (no peer: ModuleNotFoundError: No module named 'cleanvision')" in done.stdout
