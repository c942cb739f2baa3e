"""`edit train` as it is called: shard sets in, features beforehand, several processes, one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Runner, image
from safetensors import safe_open
from tiny_architectures import save_firered

SMALL = ["--set", "resolution=[64,64]", "--set", "batch_tokens=64", "--set", "variants=3", "--encoder-dtype", "float32"]
QUICK = ["--set", "steps=4", "--set", "dtype=float32", "--set", "compile=false", "--set", "model.transformer={}"]
ACCELERATE = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
DEMO = ["--recipe", "demo", "--set", "steps=4", "--set", "microbatches=2", "--set", "batch_tokens=72"]


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Callable[..., str]:
    """Standard error of `edit ARGUMENTS`."""
    return lambda *arguments, cwd, status=0: model_edit(*arguments, cwd=cwd, check=status, timeout=300).stderr


def launch(launcher: tuple[str, ...], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, "-m", "edittools", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def work(edit, tmp_path_factory):
    """A folder with `pairs/`, 36 edits of synthesised images, and `model/`, a tiny pipeline."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "crawl").mkdir()
    for k in range(12):
        (folder / "crawl" / f"{k}.jpg").write_bytes(image(k, "JPEG", 96, 128))
    edit("shard", "crawl", "-o", "raw/", "-q", cwd=folder)
    edit("synth", "raw/", "--crop", "64", "--templates", "gray,invert,flip", "--per-row", "3", "-o", "pairs/", "-q",
         cwd=folder)  # fmt: skip
    save_firered(folder / "model")
    return folder


def stored_keys(folder):
    """The keys of a folder of features, as its files name them."""
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name.partition("/")[0] for name in file.keys()}
    return found


def test_tasks_unite_to_the_whole_and_training_reads_them(edit, work):
    recipe = ["pairs/", "--recipe", "firered-small", "--set", "model.weights=model", *SMALL]
    task = ["train", *recipe, "--precompute", "-o", "parts/", "--task"]
    parts = [edit(*task, "0/2", "--processes", "2", cwd=work), edit(*task, "1/2", cwd=work)]
    assert "0 features computed" in edit("train", *recipe, "--precompute", "-o", "parts/", cwd=work)
    edit("train", *recipe, "--precompute", "-o", "whole/", cwd=work)
    from edittools.train.features import FeatureStore

    parted, whole = FeatureStore(work / "parts"), FeatureStore(work / "whole")
    keys, also = stored_keys(work / "whole"), stored_keys(work / "parts")
    assert keys == also and len(keys) > 36
    assert all(line.count("features computed") == line.count("train: ") == 1 for line in parts)
    # what each has computed, less the images that several have
    assert sum(int(line.partition(" rows: ")[2].split()[0]) for line in parts) >= len(keys)
    for key in keys:
        a, b = parted.get(key), whole.get(key)
        assert a.keys() == b.keys()
        for name in a:  # to rounding: a task has other batches, and its processes other numbers of threads
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
    cached = edit("train", *recipe, *QUICK, "--feature-dir", "whole/", "-o", "cached/", cwd=work)
    assert "36 rows" in cached and "data-wait" in cached and "of the token budget used" in cached


def test_what_is_computed_on_the_way_is_what_is_stored(edit, work):
    """Of texts of one length, since others share batches with their like once they are stored."""
    with (work / "equal.jsonl").open("w") as file:
        for k in range(12):
            row = {"id": str(k), "source": [f"crawl/{k}.jpg"], "target": f"crawl/{(k + 1) % 12}.jpg"}
            file.write(json.dumps(row | {"instruction": f"change {k:02d}"}) + "\n")
    settings = [*SMALL, "--set", "model.weights=model", "--set", "caption_dropout=0"]
    recipe = ["equal.jsonl", "--recipe", "firered-small", *settings]
    edit("train", *recipe, "--precompute", "-o", "equal/", cwd=work)
    edit("train", *recipe, *QUICK, "--feature-dir", "equal/", "-o", "stored/", cwd=work)
    edit("train", *recipe, *QUICK, "-o", "online/", cwd=work)
    losses = [
        [json.loads(line)["loss"] for line in (work / run / "log.jsonl").read_text().splitlines()]
        for run in ("stored", "online")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_held_out_rows_on_the_way_and_stored(edit, work):
    """A third of the rows held out: the same losses either way; a store without them is named."""
    edit("cat", "pairs/", "--limit", "6", "-o", "held/", "-q", cwd=work)
    recipe = ["pairs/", "--recipe", "firered-small", "--set", "model.weights=model", *SMALL, *QUICK]
    asked = ["--heldout", "held/", "--set", "heldout_every=2", "--set", "heldout_times=[0.3,0.8]"]
    said = edit("train", *recipe, *asked, "-o", "way/", cwd=work)
    assert "6 of 6 held-out rows are trained on too" in said
    edit("train", *recipe, "--precompute", "-o", "apart/", cwd=work)
    edit("train", *recipe, *asked, "--precompute", "-o", "together/", cwd=work)
    said = edit("train", *recipe, *asked, "--feature-dir", "together/", "-o", "kept/", cwd=work)
    lines = [(work / name / "heldout.jsonl").read_text().splitlines() for name in ("way", "kept")]
    assert [json.loads(line)["step"] for line in lines[0]] == [0, 2, 4]
    first = [json.loads(part[0])["loss"]["raw"] for part in lines]  # later the batches differ, by their texts' lengths
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    only = [*recipe, "--set", "caption_dropout=0.9", *asked, "--feature-dir", "apart/", "-o", "none/"]
    assert "lacks" in edit("train", *only, cwd=work, status=1)
    for rows, said in (("absent/", "absent/"), ("raw/", "--heldout: the input has none of the columns")):
        assert said in edit("train", "pairs/", "--recipe", "demo", "--heldout", rows, "-o", "n/", cwd=work,
                            status=2 if rows == "raw/" else 1)  # fmt: skip


def test_a_store_that_covers_a_part_is_named_and_completed(edit, work):
    recipe = ["pairs/", "--recipe", "firered-small", "--set", "model.weights=model", *SMALL]
    edit("train", *recipe, "--precompute", "--limit", "5", "-o", "some/", cwd=work)
    said = edit("train", *recipe, *QUICK, "--feature-dir", "some/", "-o", "never/", cwd=work, status=1)
    assert "some lacks" in said and "--precompute" in said and "Traceback" not in said
    line = edit("train", *recipe, "--precompute", "-o", "some/", cwd=work)
    added = int(line.partition(" rows: ")[2].partition(" features")[0])
    assert 0 < added < len(stored_keys(work / "some"))


def test_features_go_into_no_folder_of_something_else(edit, work):
    recipe = ["pairs/", "--recipe", "firered-small", "--set", "model.weights=model", *SMALL, "--precompute"]
    (work / "notes").mkdir()
    (work / "notes" / "weights.safetensors").write_bytes(b"mine")
    for place, said in (("pairs/", "no folder of features"), ("notes", "weights.safetensors"), ("model", "no folder")):
        before = sorted(path.name for path in (work / place).iterdir())
        line = edit("train", *recipe, "-o", place, cwd=work, status=2)
        assert said in line and "name another folder" in line and "Traceback" not in line
        assert sorted(path.name for path in (work / place).iterdir()) == before
    (work / "file").write_text("x")
    assert "file is not a folder" in edit("train", *recipe, "-o", "file", cwd=work, status=2)
    (work / "hidden").mkdir()
    (work / "hidden" / ".nfs0001").write_text("")  # what a file system leaves
    edit("train", *recipe, "--limit", "1", "-o", "hidden", cwd=work)
    edit("train", *recipe, "--limit", "1", "-o", "hidden", cwd=work)


@pytest.mark.parametrize("launcher", [
    ("torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    # --multi_gpu is how accelerate is told to start several processes; that there is no GPU does not stop it
    ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *ACCELERATE),
], ids=["torchrun", "accelerate"])  # fmt: skip
def test_launchers(edit, work, tmp_path, launcher):
    done = launch(launcher, "train", "pairs/", *DEMO, "--processes", "2", "-o", str(tmp_path / "several"), cwd=work)
    assert done.returncode == 0 and "on 2 processes (fsdp)" in done.stderr, done.stderr[-3000:]
    edit("train", "pairs/", *DEMO, "-o", tmp_path / "single", cwd=work)
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("several", "single")]
    losses = [[json.loads(line)["loss"] for line in log.splitlines()] for log in logs]
    assert losses[0] and losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_accelerate_that_starts_one_process_is_an_error(work):
    """`accelerate launch --cpu --num_processes 2` silently starts one."""
    launcher = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", *ACCELERATE)
    done = launch(launcher, "train", "pairs/", *DEMO, "--processes", "2", "-o", "one/", cwd=work)
    assert done.returncode != 0 and "2 processes were asked for, and the launcher started 1" in done.stderr
    assert not (work / "one").exists()


@pytest.mark.parametrize("name", ["firered-pretrain", "firered-ct", "firered-sft"])
def test_the_presets_read_what_the_commands_make(edit, work, name):
    """Shares of kinds, origins, captions and clusters, of rows that `edit dedup` let through."""
    from edittools.stream.run import RunOptions, open_input
    from edittools.train import load_recipe
    from edittools.train.bucket_sampler import choose_text
    from edittools.train.console import open_rows
    from edittools.train.mixture import drawn, row_weights

    if not (work / "unique").exists():
        edit("caption", "pairs/", "-o", "captioned/", "-q", cwd=work)
        edit("dedup", "captioned/", "-o", "unique/", "-q", cwd=work)
    recipe = load_recipe(name, {"t2i_share": -1.0, "language": "en"})
    rows = open_rows(recipe, open_input([str(work / "unique")], RunOptions()), 10**9)
    assert all(row.synthetic and {"instruction", "detailed", "concise", "user_like"} <= {k for k, _ in row.texts}
               for row in rows)  # fmt: skip
    shares = drawn(recipe, rows, row_weights(recipe, rows))
    assert shares["synthetic"] == 1 and len({choose_text(recipe, row, 0)[0] for row in rows}) > 3
    if name == "firered-ct":
        assert len({row.cluster for row in rows}) > 2 and shares["one"] == 1


def test_mistakes_are_one_line(edit, work):
    def fails(*arguments: str, status: int) -> str:
        said = edit("train", "pairs/", *arguments, cwd=work, status=status)
        assert "Traceback" not in said
        return said.splitlines()[-2 if "hint:" in said else -1]

    assert "precompute" in fails("--recipe", "demo", "--task", "0/2", "-o", "x/", status=2)
    assert "no frozen encoders" in fails("--recipe", "demo", "--precompute", "-o", "x/", status=2)
    assert "stepz" in fails("--recipe", "demo", "--set", "stepz=1", "-o", "x/", status=2)
    assert "cannot download" in fails("--recipe", "lora", "--set", "model.weights=o/n", "-o", "x/", status=1)
    for misspelt in ("rnu/", "rnu", "o/n/m"):
        said = fails("--recipe", "demo-dpo", "--set", f"model.weights={misspelt}", "-o", "x/", status=1)
        assert f"no folder {misspelt.rstrip('/')}" in said
    assert "token" in fails("--recipe", "demo", "--set", "batch_tokens=4", "-o", "y/", status=2)
    assert not (work / "y").exists(), "nothing came of it, and nothing is in the way of the next try"
    (work / "y").mkdir()
    (work / "y" / "config.json").write_text('{"format": "edittools run 1"}')
    assert "another run" in fails("--recipe", "demo", "-o", "y/", status=2)
    (work / "y" / "config.json").write_text('{"format": ')
    assert "config.json: not JSON" in fails("--recipe", "demo", "-o", "y/", status=1)
    assert "instruction_styles" in fails(
        "--recipe", "demo", "--set", 'instruction_styles={user="many"}', "-o", "x/", status=2
    )
    assert "`instruction_nosuch`" in fails(
        "--recipe", "demo", "--set", "instruction_styles.nosuch=1", "-o", "x/", status=2
    )
    assert "no `cluster` column" in fails("--recipe", "demo", "--set", "balance=cluster", "-o", "x/", status=2)
    assert "no row is of nosuch" in fails("--recipe", "demo", "--set", "origins.nosuch=1", "-o", "x/", status=2)
    assert "`kinds`" in fails("--recipe", "demo", "--set", "kinds.two=1", "-o", "x/", status=2)
    assert "of task nosuch" in fails("--recipe", "demo", "--set", "task_weights.nosuch=3", "-o", "x/", status=2)
