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


def test_the_gpu_benchmarks_on_a_cpu(tmp_path: Path) -> None:
    for script, options in (("train_gpu.py", ["--only", "speed", "precision"]), ("sample_gpu.py", [])):
        path = tmp_path / f"{script}.json"
        command = [sys.executable, BENCHMARKS / script, "--device", "cpu", "--json", path, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        record = json.loads(path.read_text())
        lines = {line["what"]: line for line in record["lines"]}
        if script == "train_gpu.py":
            # No bar holds here but those of precision.
            barred = {what for what, line in lines.items() if line["bar"] is not None}
            assert len(barred) == 6 and all("bfloat16" in what or "gradient norm" in what for what in barred)
            assert all(lines[what]["met"] for what in barred)
            assert record["numbers"]["plain loop, 64²"]["samples_per_s"] > 0
        else:
            # In float32 batches of one and of four are the stock pipeline's pictures.
            for what in ("batch 1", "batch 4"):
                assert record["numbers"][what]["difference"]["most"] <= 1
