"""The scripts under `benchmarks/` run: at a tiny size, where their figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forge import Forge

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def curate_alone(folder: Path, *more: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]], set[str], str]:
    """A run without peers: its record, its lines by name, which were not measured, and what it said."""
    tiny = ["--images", "2", "--rounds", "1", "--rows", "40", "--tmp", folder, "--json", folder / "f.json"]
    command = [sys.executable, BENCHMARKS / "curate.py", *tiny, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr  # for nothing that was not measured is met
    record = json.loads((folder / "f.json").read_text())
    lines = {line["what"]: line for line in record["lines"]}
    unmeasured = {what for what, line in lines.items() if line["value"] is None}
    assert not any(lines[what]["met"] for what in unmeasured)
    assert all("--peers is not given" in lines[what]["note"] for what in unmeasured)
    assert all(line["met"] for what, line in lines.items() if what.startswith(("recall of", "edit dedup, one of")))
    assert list(folder.iterdir()) == [folder / "f.json"]
    return record, lines, unmeasured, done.stdout


def test_curate_without_peers(tmp_path: Path) -> None:
    record, lines, unmeasured, said = curate_alone(tmp_path, "--only", "sizes", "recall")
    assert unmeasured == {what for what in lines if "juicer" in what} and len(unmeasured) == 1
    assert "1 not measured" in said and sum(what.startswith("recall of") for what in lines) == 4
    assert record["numbers"]["recall"]["table"]["q20"]["edittools"] == 1


@pytest.mark.long
def test_every_part_of_curate_without_peers(tmp_path: Path) -> None:
    record, lines, unmeasured, said = curate_alone(tmp_path)
    assert unmeasured == {
        what
        for what in lines
        if "imagededup" in what or "juicer" in what or "dj-process" in what or "cleanvision" in what
    }
    assert len(unmeasured) == 10 and "9 not measured" in said  # of one there is no bar
    assert record["numbers"]["recall"]["table"]["q20"]["edittools"] == 1


def test_curate_with_peers_that_cannot_be_loaded(tmp_path: Path) -> None:
    """This Python has none of them; libjpeg-turbo is there."""
    tiny = ["--images", "1", "--rounds", "1", "--only", "photometric", "--tmp", tmp_path, "--peers", sys.executable]
    command = [sys.executable, BENCHMARKS / "curate.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "NOT MEASURED (no peer: ModuleNotFoundError: No module named 'cleanvision')" in done.stdout


def on_a_cpu(forge: Forge, script: str, folder: Path, *options: str) -> dict[str, Any]:
    path, log = folder / f"{script}.json", folder / f"{script}.log"
    with open(os.devnull) as nothing, log.open("w") as said:
        words = ["--device", "cpu", "--json", str(path), *options]
        out = said.fileno()
        child = forge.start(words, stdin=nothing.fileno(), stdout=out, stderr=out, script=BENCHMARKS / script)
    assert child.wait(600) == 0, log.read_text()[-4000:]
    return json.loads(path.read_text())


def check_precision(record: dict[str, Any]) -> None:
    """No bar holds on a CPU but those of precision."""
    barred = [line for line in record["lines"] if line["bar"] is not None]
    assert len(barred) == 6
    assert all("bfloat16" in line["what"] or "gradient norm" in line["what"] for line in barred)
    assert all(line["met"] for line in barred)


def test_the_gpu_benchmarks_on_a_cpu(model_forge: Forge, tmp_path: Path) -> None:
    record = on_a_cpu(model_forge, "train_gpu.py", tmp_path, "--only", "precision", "references")
    check_precision(record)
    for model in ("flux2", "qwen21"):
        for how in ("one row at a time", "rows together"):
            assert record["numbers"][f"{model}, 2 and 3 references, {how}, 64²"]["tflops"] > 0
    # In float32 batches of four are the stock pipeline's images.
    record = on_a_cpu(model_forge, "sample_gpu.py", tmp_path, "--only", "batch 4")
    assert record["numbers"]["batch 4"]["difference"]["most"] <= 1


@pytest.mark.long
def test_more_of_the_gpu_benchmarks_on_a_cpu(model_forge: Forge, tmp_path: Path) -> None:
    record = on_a_cpu(model_forge, "train_gpu.py", tmp_path, "--only", "speed", "precision")
    check_precision(record)
    assert record["numbers"]["plain loop, 64²"]["samples_per_s"] > 0
    for model, only in (("firered", []), ("flux2", ["--only", "batch"]), ("qwen21", ["--only", "batch"])):
        record = on_a_cpu(model_forge, "sample_gpu.py", tmp_path, "--model", model, *only)
        for what in ("batch 1", "batch 4"):
            assert record["numbers"][what]["difference"]["most"] <= 1


def test_a_published_set_and_a_list_of_addresses(tmp_path: Path) -> None:
    tiny = ["--rows", "30", "--addresses", "20", "--tmp", tmp_path, "--json", tmp_path / "f.json"]
    command = [sys.executable, BENCHMARKS / "ingest_published.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "f.json").read_text())["runs"]
    assert [run["rows"] for run in runs if run["what"].startswith("edit")] == [3, 30, 2, 2, 20, 20]
    assert [run["what"] for run in runs if run["failed"]] == ["img2dataset"] * 2
    assert all(run["peak"] > 20e6 and run["cpu"] > 0 for run in runs if not run["failed"])
    assert list(tmp_path.iterdir()) == [tmp_path / "f.json"]


@pytest.mark.long
def test_preference(tmp_path: Path) -> None:
    tiny = ["--quick", "--seeds", "0", "--json", tmp_path / "f.json"]
    command = [sys.executable, BENCHMARKS / "preference.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    record = json.loads((tmp_path / "f.json").read_text())
    assert not record["owed"] and len(record["lines"]) == 33, done.stdout[-2000:] + done.stderr[-2000:]
    command = [sys.executable, BENCHMARKS / "preference_gpu.py", "--device", "cpu", "--iterations", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "images a second, all in all" in done.stdout, done.stderr[-2000:]


def test_captioning(tmp_path: Path) -> None:
    tiny = ["--rows", "40", "--seconds", "0.02", "--side", "64", "--json", tmp_path / "found.json"]
    command = [sys.executable, BENCHMARKS / "captioning.py", *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = json.loads((tmp_path / "found.json").read_text())
    assert done.returncode == (found["share of the ideal"] < 0.95), done.stderr
    assert found["calls"] == found["second run: replies from the store"] == 80 and found["second run: calls"] == 0
