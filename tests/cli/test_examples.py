"""examples/: the quickstart's files, the Makefile's own dependency tracking, and the Slurm array script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Runner
from forge import Forge
from PIL import Image

EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent


def environment(**extra: str) -> dict[str, str]:
    """With the installed commands first, or behind a stand-in for `edit`."""
    path = os.environ["PATH"]
    return {**os.environ, "PATH": path if str(BIN) in path.split(":")[:2] else f"{BIN}:{path}", **extra}


# An `edit` that a warm process runs.
STAND_IN = """#!{python} -SE
import sys
sys.path.insert(0, {tests!r})
from forge import stand_in
words = sys.argv[1:]
{more}
stand_in({socket!r}, words)
"""


def put_stand_in(folder: Path, forge: Forge, more: str = "") -> None:
    folder.mkdir()
    script = STAND_IN.format(python=sys.executable, tests=str(ROOT / "tests"), socket=forge.path, more=more)
    (folder / "edit").write_text(script)
    (folder / "edit").chmod(0o755)


@pytest.fixture(scope="module", autouse=True)
def warm(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What make and the shells of these tests find as `edit`."""
    folder = tmp_path_factory.mktemp("warm") / "bin"
    put_stand_in(folder, forge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{BIN}:{os.environ['PATH']}")
        yield


def images(folder: Path, count: int, seed: int) -> None:
    """Distinct smooth images of 72 pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for k in range(count):
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((72, 72), Image.Resampling.BICUBIC).save(folder / f"{k:03d}.png")


def make(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    fixed = ["LOCAL=flip", "GLOBAL=gray,invert", "PER_ROW=3", "SHARPNESS=0.."]
    command = ["make", "-f", str(EXAMPLES / "Makefile"), *fixed, *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=check)


def stamps(folder: Path) -> dict[str, int]:
    """When each stage's set was completed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/_end.json")}


DATA_STAGES = ("raw", "clean", "pairs-global", "pairs-local", "train")


def test_makefile_redoes_exactly_what_it_must(tmp_path: Path) -> None:
    images(tmp_path / "crawl", 12, 0)
    images(tmp_path / "heldout", 3, 1)
    make(tmp_path, "-j2", "train/_end.json")
    first = stamps(tmp_path)
    assert set(first) == set(DATA_STAGES)
    again = make(tmp_path, "train/_end.json")
    assert stamps(tmp_path) == first, again.stderr

    # A changed threshold redoes the stages behind it and none before it.
    make(tmp_path, "SIDE=70", "train/_end.json")
    second = stamps(tmp_path)
    assert second["raw"] == first["raw"]
    assert all(second[name] > first[name] for name in DATA_STAGES[1:])

    # A changed kind redoes one branch and what joins it.
    make(tmp_path, "SIDE=70", "GLOBAL=gray", "train/_end.json")
    third = stamps(tmp_path)
    assert [name for name in DATA_STAGES if third[name] != second[name]] == ["pairs-global", "train"]


def test_makefile_sees_every_file_of_the_crawl(tmp_path: Path) -> None:
    images(tmp_path / "crawl" / "a" / "b", 12, 0)
    make(tmp_path, "raw/_end.json")
    first = stamps(tmp_path)
    os.utime(tmp_path / "crawl")
    make(tmp_path, "raw/_end.json")
    assert stamps(tmp_path) == first

    def rows() -> int:
        return json.loads((tmp_path / "raw/_end.json").read_text())["rows"]

    inside = tmp_path / "crawl" / "a" / "b"
    (inside / "new one.png").write_bytes((inside / "000.png").read_bytes())
    make(tmp_path, "raw/_end.json")
    assert rows() == 13
    (inside / "new one.png").unlink()
    make(tmp_path, "raw/_end.json")
    assert rows() == 12
    second = stamps(tmp_path)
    (inside / "000.png").write_bytes((inside / "001.png").read_bytes())
    make(tmp_path, "raw/_end.json")
    assert stamps(tmp_path)["raw"] > second["raw"]


def test_a_stage_with_too_many_failed_rows_is_not_done(tmp_path: Path) -> None:
    images(tmp_path / "crawl", 12, 0)
    for k in range(3):
        (tmp_path / f"crawl/{k}.jpg").write_text("not found")
    for _ in range(2):
        failed = make(tmp_path, "clean/_end.json", check=False)
        assert failed.returncode == 2 and "3 of 15 rows failed" in failed.stderr
        assert not (tmp_path / "clean").exists()
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").glob("0*")}
    assert shards
    # A recipe that tolerates them goes on with what is there.
    (tmp_path / "tolerant").write_text((EXAMPLES / "Makefile").read_text().replace("5%", "50%"))
    subprocess.run(["make", "-f", "tolerant", "raw/_end.json"], cwd=tmp_path, env=environment(), check=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").glob("0*")} == shards


def test_interrupted_make_goes_on(tmp_path: Path) -> None:
    images(tmp_path / "crawl", 200, 0)
    command = ["make", "-f", str(EXAMPLES / "Makefile"), "LOCAL=flip", "GLOBAL=gray,invert", "clean/_end.json"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, start_new_session=True)
    while process.poll() is None and not (tmp_path / "raw" / "_end.json").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    raw = stamps(tmp_path)["raw"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert stamps(tmp_path)["raw"] == raw
    assert not list(tmp_path.glob("*/.tmp-*"))
    reference = tmp_path / "undisturbed"
    reference.mkdir()
    (reference / "crawl").symlink_to(tmp_path / "crawl")
    subprocess.run(command, cwd=reference, env=environment(), check=True, capture_output=True)
    for path in sorted((reference / "clean").glob("0*")):
        assert path.read_bytes() == (tmp_path / "clean" / path.name).read_bytes(), path.name


def slurm(folder: Path, task: int, tasks: int, step: str, **extra: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_COUNT": str(tasks),
        "STEP": step,
        "SIDE": "64",
        **extra,
    }
    script = ["bash", str(EXAMPLES / "slurm-array.sh")]
    return subprocess.run(script, cwd=folder, env=environment(**variables), capture_output=True, text=True)


def test_slurm_array_resume_and_retry(tmp_path: Path) -> None:
    edit = str(BIN / "edit")
    images(tmp_path / "crawl", 20, 0)
    run = lambda *words: subprocess.run([edit, *words], cwd=tmp_path, check=True, capture_output=True)  # noqa: E731
    run("shard", "crawl/", "--rows", "4", "-o", "raw/")
    for task in range(3):
        assert slurm(tmp_path, task, 3, "fingerprint").returncode == 0
    run("dedup", "prints/", "--phase", "decide", "-o", "decisions.parquet")

    # Task 1 fails: its output folder cannot be reached because a file is in the way of the shard it writes.
    assert slurm(tmp_path, 0, 3, "apply").returncode == 0
    blocked = tmp_path / "clean" / "00001.parquet"
    blocked.mkdir()
    failed = slurm(tmp_path, 1, 3, "apply")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    blocked.rmdir()
    assert slurm(tmp_path, 2, 3, "apply").returncode == 0
    assert not (tmp_path / "clean" / "_end.json").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "clean").glob("*.parquet")}

    # Retry of the failed task alone: Slurm would count one task, EDITTOOLS_TASKS says how the work was cut.
    retried = slurm(tmp_path, 1, 1, "apply", EDITTOOLS_TASKS="3", SLURM_ARRAY_TASK_MIN="1")
    assert retried.returncode == 0, retried.stderr
    end = json.loads((tmp_path / "clean" / "_end.json").read_text())
    assert end["shards"] == 5 and end["rows"] == 20
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "clean").glob("*.parquet")}
    assert {name: after[name] for name in before} == before

    # The same as one process makes.
    run("dedup", "raw/", "-o", "whole/")
    whole = sum(
        json.loads(line)["reason"] == "duplicate"
        for p in (tmp_path / "whole/_rejects").iterdir()
        for line in p.read_text().splitlines()
    )
    assert whole == end["rows"] - end["kept"]


FAKE_SLURM = {
    "scontrol": "echo 127.0.0.1",
    # what srun does on two nodes, on one: both commands, the signal to both, the worse exit status
    "srun": """shift
"$@" & a=$!
"$@" & b=$!
trap 'kill -TERM $a $b' TERM
status=0
for pid in $a $b; do
    while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done
    [ $code -eq 0 ] || status=$code
done
exit $status""",
}


def test_slurm_train_on_two_nodes_stops_at_a_signal_and_goes_on(model_edit: Runner, tmp_path: Path) -> None:
    """Two torchruns of one process each, as on two nodes, find each other; HSDP has a copy of the model on each."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_architectures import save_firered

    images(tmp_path / "crawl", 8, 0)
    (tmp_path / "bin").mkdir()
    for name, body in FAKE_SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    save_firered(tmp_path / "model")
    recipe = (ROOT / "src/edittools/train/recipes/firered-small.toml").read_text()
    for old, new in {
        "resolution = [256, 256]": "resolution = [64, 64]", "batch_tokens = 8192": "batch_tokens = 32",
        "microbatches = 4": "microbatches = 2", "steps = 100000": "steps = 120", "warmup = 1000": "warmup = 5",
        "compile = true": "compile = false", "sample_every = 2000": "sample_every = 0", "variants = 4": "variants = 1",
        'weights = "Qwen/Qwen-Image-Edit-2509"': 'weights = "model"',
    }.items():  # fmt: skip
        assert old in recipe, old
        recipe = recipe.replace(old, new)
    (tmp_path / "tiny.toml").write_text(recipe.partition("[model.transformer]")[0])  # the weights' own transformer
    model_edit("shard", "crawl/", "-o", "raw/", "-q", cwd=tmp_path)
    model_edit(
        "synth", "raw/", "--crop", "64", "--templates", "gray,flip", "--per-row", "2", "-o", "pairs/", cwd=tmp_path
    )
    model_edit("train", "pairs/", "--recipe", "tiny.toml", "--precompute", "-o", "features/", cwd=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = environment(
        PATH=f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}",
        DEVICE="cpu",
        RECIPE="tiny.toml",
        PORT=str(port),
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="1",
        SLURM_JOB_NODELIST="a,b",
        SLURM_JOB_ID="7",
    )
    command = ["bash", str(EXAMPLES / "slurm-train.sh")]
    job = subprocess.Popen(command, cwd=tmp_path, env=there, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[1]
        time.sleep(0.2)
    for child in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)  # to the job's steps, as --signal does
    said = job.communicate(timeout=200)[1]
    assert job.returncode != 0
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert len(saved) == 1 and not (tmp_path / "run" / "_end.json").exists(), said
    step = int(saved[0].removeprefix("step-"))
    assert 20 <= step < 120
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resumed from step {step}" in done.stderr and "2 processes (hsdp)" in done.stderr
    assert json.loads((tmp_path / "run" / "_end.json").read_text())["steps"] == 120
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 120


@pytest.mark.parametrize("name", ["make_crawl.py"])
def test_crawl_is_what_it_says(tmp_path: Path, name: str) -> None:
    pytest.importorskip("skimage")
    subprocess.run([sys.executable, str(EXAMPLES / name), str(tmp_path), "--crops", "60", "--heldout", "8"], check=True)
    assert len(list((tmp_path / "heldout").iterdir())) == 8
    held = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "heldout").iterdir()}
    assert len(held) == 4
    edit = str(BIN / "edit")
    subprocess.run([edit, "shard", "crawl/", "-o", "raw/", "--max-errors", "50%"], cwd=tmp_path, check=True)
    end = json.loads((tmp_path / "raw" / "_end.json").read_text())
    files = len(list((tmp_path / "crawl").iterdir()))
    rejects = sum(len(p.read_text().splitlines()) for p in (tmp_path / "raw" / "_rejects").iterdir())
    assert end["rows"] == files == end["kept"] + rejects
    assert rejects == 3  # the page of HTML, the empty file, the file that is no image


def test_a_crawl_of_your_own_photographs(tmp_path: Path) -> None:
    images(tmp_path / "mine" / "inside", 9, 0)
    (tmp_path / "mine" / "000.jpg").write_bytes(b"no picture")
    (tmp_path / "mine" / "zzz.png").write_bytes((tmp_path / "mine/inside/001.png").read_bytes()[:500])
    command = [sys.executable, str(EXAMPLES / "make_crawl.py"), str(tmp_path), "--photos", str(tmp_path / "mine")]
    done = subprocess.run([*command, "--crops", "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 2 and all(name in done.stderr for name in ("000.jpg", "zzz.png"))
    held = [path.name.rsplit("-", 1)[0] for path in (tmp_path / "heldout").iterdir()]
    assert len(held) == 100 and len(set(held)) >= 4
    assert len(list((tmp_path / "crawl").glob("[0-9]*.jpg"))) == 60
    for path in (tmp_path / "mine" / "inside").iterdir():
        path.write_bytes(b"")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr


def test_large_photographs_are_opened_smaller_one_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import make_crawl

    for name in ("large.jpg", "large.png", "small.png"):
        Image.new("RGB", (600, 500) if "small" in name else (4000, 2600)).save(tmp_path / name)
    sizes = {path.name: make_crawl.photograph(path).size for path in tmp_path.iterdir()}
    assert sizes == {"large.jpg": (2000, 1300), "large.png": (2000, 1300), "small.png": (600, 500)}
    assert make_crawl.photograph.cache_info().maxsize < 20


def test_another_crawl_needs_another_demo(tmp_path: Path) -> None:
    for name in ("mine", "your own"):
        images(tmp_path / name, 8, 0)
    (tmp_path / "examples").mkdir()
    for name in ("demo.sh", "make_crawl.py"):
        (tmp_path / "examples" / name).write_text((EXAMPLES / name).read_text())
    (tmp_path / "examples/quickstart.sh").write_text("ls\n")
    (tmp_path / "examples/strip.py").write_text("")

    def demo(crawl: str, folder: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "examples/demo.sh"]
        there = environment(CRAWL=crawl, DEMO=folder)
        return subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)

    for _ in range(2):
        assert "heldout" in demo("your own", "demo").stdout
    for other in ("mine", ""):
        refused = demo(other, "demo")
        assert refused.returncode == 1 and "your own" in refused.stderr and "DEMO=" in refused.stderr
    assert demo("mine", "other").returncode == 0


# Of what the quickstart calls: a training of two steps.
QUICKLY = """
if words[0] == "train":
    settings = ["steps=2", "microbatches=1", "batch_tokens=72", "resolution=[60, 60]", "log_every=1"]
    if "demo-nft" in words:
        settings += ["objective_settings.group=2", "objective_settings.evaluate_rows=4"]
    words += [word for setting in settings for word in ("--set", setting)]
elif words[0] == "sample":
    words += ["--steps", "2"]
    if "--candidates" in words:
        words += ["--candidates", "2", "--limit", "12"]
elif words[0] == "pair":  # after two steps all images are alike
    words += ["--margin", "0", "--near-equal", "100"]
"""


def test_the_demo_from_a_folder_of_photographs_to_its_strip(
    model_forge: Forge, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """demo.sh whole: make_crawl.py, quickstart.sh, strip.py; and preference.sh after it."""
    images(tmp_path / "photographs", 12, 0)
    put_stand_in(tmp_path / "bin", model_forge, QUICKLY)
    crawl = (EXAMPLES / "make_crawl.py").read_text()
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/make_crawl.py").write_text(
        crawl.replace("default=4200", "default=60").replace("default=100", "default=4")
    )
    for name in ("demo.sh", "quickstart.sh", "preference.sh", "strip.py"):
        (tmp_path / "examples" / name).write_text((EXAMPLES / name).read_text())
    there = environment(CRAWL="photographs", DEMO="demo")
    there["PATH"] = f"{tmp_path / 'bin'}:{there['PATH']}"
    done = subprocess.run(["sh", "examples/demo.sh"], cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "demo/report.html").stat().st_size > 10_000
    strip = Image.open(tmp_path / "demo/strip.png").convert("RGB")
    assert strip.size == (270 + 3 * 142, 24 + 3 * 142), "three edits, of three images each"
    # source and truth of the mirrored row are each other's mirror images
    source, truth = (strip.crop((x, 308, x + 132, 440)) for x in (270, 554))
    assert np.abs(np.asarray(source, int)[:, ::-1] - np.asarray(truth, int)).mean() < 12 < np.ptp(np.asarray(truth))

    if not pytestconfig.getoption("--long"):
        return
    command = ["sh", "../examples/preference.sh"]
    done = subprocess.run(command, cwd=tmp_path / "demo", env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [json.loads((tmp_path / f"demo/run-{name}/_end.json").read_text()) for name in ("dpo", "nft")]
    assert [end["steps"] for end in ends] == [2, 2] and all(end["weights"] == "raw" for end in ends)
    for name in ("run", "run-dpo", "run-nft"):
        assert (tmp_path / f"demo/report-{name}.html").stat().st_size > 10_000
