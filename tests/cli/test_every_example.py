"""Every line that the manual shows as an example is run, with tiny models, a server on loopback and small images.

Those of `edit train` and `edit sample` are in test_help_examples, those of the documents in test_cookbook.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Runner, rows_of, tar_bytes
from test_cases import make_gedit
from test_clients import Server, chat, response
from test_cookbook import shortened
from test_examples import images
from test_help_examples import run as run_line
from test_rescore import GEDIT, gedit_row, write_gedit
from tiny_architectures import save_firered
from tiny_models import save_clip, save_dino, save_sscd

from edittools.cli.manual import commands

sys.path.append(str(ROOT / "tests/ground"))
from tiny_grounding import save_groundingdino, save_owlv2, save_sam2

# What is changed in a line: sizes, thresholds, which part of an array, and where it runs.
SMALLER = {
    "--min-side 512": "--min-side 16", "--task 3/64": "--task 0/1", "--clusters 500": "--clusters 3",
    "--cosine X": "--cosine 0.5", "--device cuda --dtype bfloat16": "--steps 2", "gpt-4.1": "gpt-4.1-tiny",
    " | man -l -": "", " | jq .mean": "", "--lora-format kohya": "--lora-format kohya --model Qwen-Image-Edit/",
    "--lora-format peft": "--lora-format peft --model Qwen-Image-Edit/",
    "--maps canny,depth": "--maps canny", "--cases cases/": "--cases cases/ --limit 3",
}  # fmt: skip
# What is not run here, and why.
ELSEWHERE = {
    "edit eval cases gedit GEdit-Bench/ --results": "its judge's texts are another's: tests/bench/test_public_eval.py",
    "edit eval compare gedit": "likewise: test_public_eval",
    "edit eval report gedit": "likewise: test_public_eval, and a line of docs/COOKBOOK.md",
    "edit eval report pairwise": "tests/bench/test_pairwise.py, and a line of docs/COOKBOOK.md",
    "edit eval rescore imgedit": "tests/bench/test_rescore.py has the files of its script",
    "edit eval study score": "tests/bench/test_study.py has answers of raters",
    "edit eval build": "tests/bench/test_build.py has rows with concepts, in two languages",
    "edit eval study build judged/": "tests/bench/test_study_rows.py has scores of that rubric",
    "edit eval study serve": "it ends by a signal: tests/bench/test_study_serve.py",
    "edit dedup private/ --nearest": "tests/dedup/test_deidentify.py has a private and a public set",
    "edit dedup near/ --replace": "likewise: test_deidentify",
    "edit dedup benchmark/ --absent": "likewise: test_deidentify",
    "edit eval dataset pairs/ --earlier": "tests/bench/test_funnel.py has sets of one history",
    "edit filter pool/ --nearest": "tests/filter/test_base_images.py has a pool and its gaps",
    "edit filter pairs/ --review": "tests/bench/test_study_rows.py has what people decided",
    "edit shard posts/": "tests/ingest/test_halves.py has images of both",
    "edit shard clips/": "tests/ingest/test_frames.py makes videos",
    "edit shard OmniEdit": "tests/ingest/test_datasets.py has a small set in each published layout",
    "edit caption clean/ --kinds": "tests/caption/test_model_command.py has models that answer by the schemas of kinds",
    "edit caption found/ --kinds": "likewise: test_model_command",
    "edit caption told/ --kinds": "likewise: test_model_command",
    "edit eval captions told/": "tests/bench/test_captions.py",
    "edit judge bench/": "tests/train/test_judge.py trains a judge and asks it",
    "edit eval judges": "tests/bench/test_judge_accuracy.py has pairs with people's choice",
    "edit filter told/ --where 'instruction_negative": "likewise, and test_vlm_judge asks about them",
    "edit eval probe": "tests/bench/test_probe.py has negatives of every kind",
    "edit eval coverage pairs/": "a line of docs/COOKBOOK.md, and tests/bench/test_text_coverage.py",
    "edit judge results/ --judge editreward": "tests/score/test_reward_models.py asks the other one by its name",
    "edit score results/ --reward-model": "tests/score/test_reward_models.py has the tiny weights, and the prompts",
    "edit synth people/ --painter": "likewise: test_painted, with faces by hand",
    "edit synth objects/ --painter": "tests/synth/test_painted.py has a tiny painter",
    "edit synth photos/ --painter": "likewise: tests/synth/test_shown.py",
    "edit weights mediapipe": "pip would download it; tests/weights/test_wheels.py has a wheel of its own",
}
PROMPT = """Rate it.

Example Response Format:
Brief reasoning: words
Compliance: a number
Naturalness: a number
Coherence: a number
"""


def answer(prompt: str, number: int) -> list[bytes]:
    """A reply that any rubric of the examples reads, other numbers for other questions."""
    score = 2 + (len(prompt) + number) % 3
    names = ("compliance", "naturalness", "coherence", "success", "preservation", "cleanness")
    lines = f"Brief reasoning: so\nCompliance: {score}\nNaturalness: {score}\nCoherence: {score}"
    reply = (
        lines if "Example Response Format" in prompt else json.dumps({"rationale": "so"} | dict.fromkeys(names, score))
    )
    return [response(200, chat(reply))]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(answer)
    yield made
    made.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edittools.ground.detectors import groundingdino, owlv2
    from edittools.ground.segmenters import sam2

    folder = tmp_path_factory.mktemp("weights")
    save_clip(folder / "openai/clip-vit-large-patch14")
    save_dino(folder / "facebook/dinov2-base")
    save_sscd(folder / "sscd_disc_mixup")
    save_groundingdino(folder / groundingdino.WEIGHTS)
    save_owlv2(folder / owlv2.WEIGHTS)
    save_sam2(folder / sam2.WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def material(model_edit: Runner, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the lines name."""
    folder = tmp_path_factory.mktemp("material")

    def edit(line: str) -> None:
        asked = {"EDITTOOLS_API_BASE": server.url, "OPENAI_API_KEY": "sk-none"}
        run_line(model_edit, shlex.split(shortened(f"edit {line}")), folder, asked)

    for seed, name in enumerate(("crawl", "new-crawl", "other-crawl")):
        images(folder / name, 16, seed)
        for path in (folder / name).glob("*.png"):
            path.with_suffix(".txt").write_text("cat")
    edit("shard crawl/ --rows 8 -o raw/")
    edit("shard new-crawl/ -o new/")
    edit("shard other-crawl/ -o others/")
    shutil.copytree(folder / "raw", folder / "clean")
    edit("synth raw/ --crop 60 --templates gray,invert,flip --per-row 2 -o made/")
    edit("score made/ -o pairs/")
    edit("cat pairs/ --limit 6 -o held/")
    edit("train pairs/ --recipe demo --heldout held/ --set keep_every=1 -o run/")
    edit("sample held/ --model run/ --candidates 2 -o candidates/")
    edit("score candidates/ -o scored/")
    edit("judge scored/ --rubric viescore --model gpt-4.1 -o judged/")
    shutil.copytree(folder / "scored", folder / "results")
    return folder


def write_tables(folder: Path) -> None:
    """Pairs as tables that others have, beside the crawl's images."""
    rows = [{"image": ["000.png", "001.png"]}, {"image": ["002.png", "003.png"]}]
    (folder / "x.json").write_text(json.dumps(rows))
    (folder / "images.tar").write_bytes(
        tar_bytes([(p.name, p.read_bytes()) for p in sorted((folder / "crawl").glob("*.png"))])
    )
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"crawl/{k:03d}.png" for k in range(4)]
    pq.write_table(pa.table({"src_img": names, "edited_img": names[::-1]}), folder / "pairs.parquet")


def write_study(folder: Path) -> None:
    """Cases, and the results of two models."""
    for model, seed in (("a", 3), ("b", 4)):
        images(folder / model, 3, seed)
    cases = [
        {"id": f"{k:03d}", "task": "tone", "instruction": "warmer", "source": f"crawl/{k:03d}.png"} for k in range(3)
    ]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))


def prepare(name: str, folder: Path, edit: Callable[[str], None]) -> None:
    """What the lines of one command need beside the rest."""
    if name == "shard":
        write_tables(folder)
    elif name == "judge":
        (folder / "ImgEdit").mkdir()
        tasks = ("replace", "add", "adjust", "remove", "style", "tone", "color", "background", "hybrid")
        (folder / "ImgEdit/prompts.json").write_text(json.dumps(dict.fromkeys(tasks, PROMPT)))
        with open(folder / "ratings.csv", "w", newline="") as file:
            csv.writer(file).writerows([["id", "score"], *([row["id"], 3] for row in rows_of(folder / "results"))])
    elif name == "pair":
        for expert in ("expert-a", "expert-b"):
            shutil.copytree(folder / "judged", folder / expert)
    elif name == "lora":
        shutil.rmtree(folder / "run")
        save_firered(folder / "Qwen-Image-Edit")
        edit("edit train pairs/ --recipe lora --set model.weights=Qwen-Image-Edit/ -o run/")
        shutil.copy(folder / "run/pytorch_lora_weights.safetensors", folder / "a.safetensors")
    elif name == "man":
        shutil.copy(ROOT / "README.md", folder)
        shutil.copytree(ROOT / "docs", folder / "docs")
    elif name in ("eval cases", "eval export"):
        make_gedit(folder / "GEdit-Bench")
        shutil.rmtree(folder / "results")
        if name == "eval export":
            edit("edit eval cases gedit GEdit-Bench/ | edit sample --model run/ -o results/")
    elif name == "eval rescore":
        shutil.rmtree(folder / "results")
        write_gedit(folder / "results", {t: [gedit_row(t, one, "a", 4, 9) for one in ("en", "cn")] for t in GEDIT})
    elif name == "eval study build":
        write_study(folder)
    elif name == "eval checkpoints":
        shutil.copytree(folder / "held", folder / "heldout")


COMMANDS = {name: [line for line, _ in command.examples] for name, command in commands().items()}
HERE = sorted(COMMANDS.keys() - {"train", "sample"})


@pytest.mark.parametrize("name", HERE)
def test_every_line(
    name: str, model_edit: Runner, material: Path, weights: Path, server: Server, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if name == "ground":
        request.getfixturevalue("wheel")
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    asked = {"EDITTOOLS_API_BASE": server.url, "OPENAI_API_KEY": "sk-none", "EDITTOOLS_WEIGHTS": str(weights)}
    prepare(name, tmp_path, lambda line: run_line(model_edit, shlex.split(shortened(line)), tmp_path, asked))
    for line in COMMANDS[name]:
        if any(line.startswith(start) for start in ELSEWHERE):
            continue
        for old, new in SMALLER.items():
            line = line.replace(old, new)
        words = shlex.split(shortened(line))
        out = tmp_path / words[words.index("-o") + 1] if "-o" in words else None
        if name == "eval checkpoints":  # what it keeps in the run, for the same rows
            shutil.rmtree(tmp_path / "run/eval", ignore_errors=True)
        if out is not None and out.exists():
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        run_line(model_edit, words, tmp_path, asked)
        assert out is None or out.exists(), line


def test_exceptions_are_of_lines_that_there_are() -> None:
    lines = [line for lines in COMMANDS.values() for line in lines]
    assert all(any(line.startswith(start) for line in lines) for start in ELSEWHERE)
    assert all(any(re.search(re.escape(old), line) for line in lines) for old in SMALLER)
