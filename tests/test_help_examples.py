"""Every line that the help and the manual of `edit train` and `edit sample` show is run, with tiny models on a CPU."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import click
import pytest
from conftest import Runner, image, rows_of
from test_architectures import recipe
from test_cases import make_gedit
from tiny_architectures import save_firered, save_step1x
from training import MemoryRows, pairs
from training import run as train

from edittools.cli.main import group

# What is changed in a line: the device, how many processes, and how much work it is.
SMALLER = {
    "--device cuda": "--device cpu",
    "--processes 8": "--processes 2",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "steps=2000": "steps=3",
    "steps=3000": "steps=4",
    "heldout_every=100": "heldout_every=2",
    "--resolution 786": "--resolution 64",
    " --compile": "",
}
DEMO = {"steps": 2, "microbatches": 1, "batch_tokens": 72, "resolution": [64, 64], "log_every": 1}
PUBLISHED = {"steps": 1, "microbatches": 2, "batch_tokens": 32, "resolution": [32, 32], "variants": 1, "compile": False,
             "ratios": ["1:1"], "warmup": 0, "t2i_share": 0, "origins": {}, "kinds": {}, "resample": False,
             "balance": "task"}  # fmt: skip


def lines(name: str) -> list[str]:
    command = group.get_command(click.Context(group), name)
    return [line for line, _ in command.examples]  # type: ignore[union-attr]


def smaller(line: str) -> list[str]:
    """A line of the help as words, its work made small by settings behind those that it has."""
    for old, new in SMALLER.items():
        line = line.replace(old, new)
    words = shlex.split(line)
    if "train" in words and "-n" not in words:
        settings = DEMO if "demo" in words else PUBLISHED
        if "lora" in words:
            kept = ("steps", "microbatches", "batch_tokens", "resolution", "ratios", "compile", "variants")
            settings = {name: settings[name] for name in kept}
        for name, value in settings.items():
            if not any(word.startswith(f"{name}=") for word in words):
                words += ["--set", f"{name}={json.dumps(value)}"]
        words += ["-j", "1"]
    if "sample" in words and "--steps" not in words:
        words += ["--steps", "2"]
    if "FireRed-Image-Edit-1.0/" in words and "sample" in words:
        words += ["--resolution", "64"]
    return words


@pytest.fixture(scope="module")
def work(model_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the lines name: rows, models, a benchmark."""
    folder = tmp_path_factory.mktemp("help")
    (folder / "crawl").mkdir()
    for k in range(6):
        (folder / "crawl" / f"{k}.jpg").write_bytes(image(k, "JPEG", 96, 128))
    model_edit("shard", "crawl", "-o", "raw/", cwd=folder)
    model_edit(
        "synth", "raw/", "--crop", 64, "--templates", "gray,invert,flip", "--per-row", 3, "-o", "pairs/", cwd=folder
    )
    model_edit("cat", "pairs/", "--limit", 3, "-o", "held/", cwd=folder)
    shutil.copytree(folder / "held", folder / "heldout")
    for name in ("Qwen-Image-Edit-2509", "FireRed-Image-Edit-1.0", "runs/firered-ct"):
        save_firered(folder / name)
    # a run, which remembers how many tokens the tiny vocabulary has for Step1X-Edit's request
    weights, dropped = save_step1x(folder / "base", "1.1")
    made = recipe("step1x", {"weights": str(weights), "dropped": dropped}, steps=1, sample_steps=0, sample_guidance=0.0)
    train(made, MemoryRows(pairs(2, side=64)), folder / "step1x-v1.1")
    make_gedit(folder / "GEdit-Bench")
    return folder


def run(edit: Runner, words: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
    """One line: a command, a pipe, or processes that a launcher starts."""
    if words[0] == "torchrun":
        count = int(words[words.index("--nproc-per-node") + 1])
        launched(edit, words[words.index("edittools") + 1 :], count, cwd)
        return
    cuts = [-1, *(k for k, word in enumerate(words) if word == "|"), len(words)]
    commands = [words[a + 1 : b] for a, b in itertools.pairwise(cuts)]
    assert all(command[0] == "edit" for command in commands)
    if len(commands) > 1:
        edit.pipe(*(command[1:] for command in commands), cwd=cwd, env=env)
    else:
        edit(*commands[0][1:], cwd=cwd, env=env, timeout=300)


def launched(edit: Runner, words: list[str], count: int, cwd: Path) -> None:
    """As torchrun does it, which is not what is tried here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
             "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
    children = []
    for rank in range(count):
        with open("/dev/null") as nothing, (cwd / f"rank{rank}").open("w") as said:
            env = {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(edit.start(*words, stdin=nothing.fileno(), stdout=said.fileno(), stderr=said.fileno(),
                                       cwd=cwd, env=env))  # fmt: skip
    codes = [child.wait(300) for child in children]
    assert not any(codes), [(cwd / f"rank{rank}").read_text()[-2000:] for rank in range(count)]


def test_every_line_of_train(model_edit: Runner, work: Path) -> None:
    """In their order, which is that of the folders they need; lines that show the same -o go on there or begin anew."""
    slurm = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "0"}
    recipes = []
    for line in lines("train"):
        words = smaller(line)
        kind, out = words[words.index("--recipe") + 1], words[words.index("-o") + 1] if "-o" in words else None
        if out == "run/" and (kind, "--heldout" in words) != (recipes[-1] if recipes else (kind, False)):
            shutil.rmtree(work / "run", ignore_errors=True)
        run(model_edit, words, work, slurm if "auto" in words else None)
        if out == "run/":
            recipes.append((kind, "--heldout" in words))
        if out and "--precompute" not in words:
            assert (work / out / "_end.json").exists(), line
    assert len(recipes) >= 4 and (work / "run" / "heldout.jsonl").exists()


def test_every_line_of_sample(model_edit: Runner, work: Path) -> None:
    shutil.rmtree(work / "run", ignore_errors=True)
    run(model_edit, smaller(lines("train")[0]), work)
    adapters = "edit train pairs/ --recipe lora --set model.weights=FireRed-Image-Edit-1.0/ --device cuda -o run-lora/"
    run(model_edit, smaller(adapters), work)
    shutil.copy(work / "run-lora" / "pytorch_lora_weights.safetensors", work / "fast.safetensors")
    for line in lines("sample"):
        shutil.rmtree(work / "results", ignore_errors=True)
        run(model_edit, smaller(line), work)
        made = rows_of(work / "results")
        assert made and all(row["result"] for row in made), line


def test_the_lines_name_no_option_that_is_left_out_here() -> None:
    """What SMALLER changes is in some line; an example that is gone takes its exception with it."""
    said = "\n".join(lines("train") + lines("sample"))
    assert all(re.search(re.escape(old), said) for old in SMALLER)
