"""The file name is the registry: of every kind a new file is laid into a copy of the package, and nothing else."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Runner, encode
from forge import Forge
from safetensors.torch import save_file

import edittools
from edittools.registry import Registry

ROOT = Path(__file__).parents[1]
EXAMPLES = Path(__file__).parent / "extension"
FILES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".toml"))
GROUPS = {
    "filter/filters": "edittools.filters",
    "dedup/signatures": "edittools.signatures",
    "encoders/embedders": "edittools.embedders",
    "judge/rubrics": "edittools.rubrics",
    "vlm/backends": "edittools.backends",
    "stream/writers": "edittools.formats",
    "stream/readers": "edittools.readers",
    "ingest/datasets": "edittools.datasets",
    "train/optimizers": "edittools.optimizers",
    "train/objectives": "edittools.objectives",
    "bench/studies/designs": "edittools.designs",
    "suites": "edittools.benchmarks",
    "ground/detectors": "edittools.detectors",
    "synth/templates": "edittools.templates",
    "caption/styles": "edittools.styles",
    "caption/kinds": "edittools.caption_kinds",
    "caption/checks": "edittools.caption_checks",
    "nets": "edittools.architectures",
}


# What most of these commands import.
TRAINS = ("torch", "edittools.train.console", "edittools.nets.small", "edittools.encoders.classifier")


class Edit:
    """`edit ARGUMENTS` of the package at these places, which a process imports once, with `also`, and forks."""

    def __init__(self, *places: Path, weights: Path, logs: Path, also: tuple[str, ...] = ()) -> None:
        self.env = {"PYTHONPATH": os.pathsep.join(map(str, places)), "EDITTOOLS_WEIGHTS": str(weights),
                    "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        logs.mkdir(parents=True)
        self.forge = Forge(*also, env=self.env)
        self.run = Runner(self.forge, logs)

    def python(self, *arguments: Any, check: int = 0) -> subprocess.CompletedProcess[str]:
        """A Python of its own there."""
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)], env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ran.returncode == check and "Traceback" not in ran.stderr, ran.stderr
        return ran

    def __call__(self, *arguments: Any, check: int = 0) -> str:
        return self.run(*arguments, check=check, timeout=300).stdout.decode()

    def error(self, *arguments: Any, check: int) -> str:
        return self.run(*arguments, check=check, timeout=300).stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EDITTOOLS_WEIGHTS with the model of the filter `taste`, which likes what is green."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "plain-taste").mkdir()
    (folder / "plain-taste/config.json").write_text("{}")
    save_file({"weight": torch.tensor([[0.0, 1.0, 0.0]])}, folder / "plain-taste/model.safetensors")
    return folder


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Edit]:
    """A copy of the package with the examples in their places, and no file of it changed."""
    package, ours = tmp_path_factory.mktemp("src") / "edittools", Path(edittools.__file__).parent
    shutil.copytree(ours, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        assert not (package / name).exists(), f"{name} is an example of a file that is there"
        (package / name).parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, package / name)
    _, changed, _ = filecmp.cmpfiles(
        ours, package, [path.relative_to(ours) for path in ours.rglob("*.py")], shallow=False
    )
    assert not changed
    made = Edit(package.parent, weights=weights, logs=package.parent / "logs", also=TRAINS)
    assert made.python("-m", "edittools", "--version").stdout == made("--version")
    yield made
    made.forge.close()


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one hue each, with some noise: red, green, blue, and blue again with a brighter corner."""
    folder = tmp_path_factory.mktemp("colours")
    for number, name in enumerate(("red", "green", "blue")):
        image = np.random.default_rng(number).integers(0, 40, (48, 64, 3))
        image[..., number] += 200
        (folder / f"{name}.png").write_bytes(encode(image.astype(np.uint8), "PNG"))
    image[:6, :8] += 15
    (folder / "bluish.png").write_bytes(encode(image.astype(np.uint8), "PNG"))
    return folder


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "_rejects").glob("*.jsonl")) for row in rows(path.read_text())]


def name_of(row: dict[str, Any]) -> str:
    return Path(row["provenance"]["path"]).stem


def flat(text: str) -> str:
    """A help text in one line, a manual's too."""
    return " ".join(text.replace("\\-", "-").replace("\\:", "").split())


# ---------------------------------------------------------------- filters


def test_a_filter_of_pixels(edit: Edit, colours: Path, tmp_path: Path) -> None:
    said = "Mean of red less mean of blue, at least this; cold images are low."
    assert f"--warmth BOUND {said}" in flat(edit("filter", "--help"))
    page = flat(edit("man", "filter"))
    assert said in flat(edit("man", "filter", "warmth"))
    assert page.count(said) == 2 and "levels, -255 to 255" in page, "among the options and in the table"
    edit("filter", colours, "--warmth", "-50..", "-o", tmp_path / "out", "-j", 1)
    kept = {name_of(row): row["scores"]["warmth"] for row in rows(edit("cat", tmp_path / "out", "-f", "jsonl"))}
    assert set(kept) == {"red", "green"}
    assert kept["red"] == pytest.approx(200, abs=2) and kept["green"] == pytest.approx(0, abs=2)
    dropped = rejects(tmp_path / "out")
    assert [row["reason"] for row in dropped] == ["warmth"] * 2
    assert all(row["value"] == pytest.approx(-200, abs=3) for row in dropped)


def test_a_filter_with_a_model_of_its_own(edit: Edit, colours: Path, weights: Path, tmp_path: Path) -> None:
    for text in (edit("filter", "--help"), edit("man", "filter")):
        assert "--taste-weights FOLDER|NAME" in flat(text) and "The model behind --taste." in flat(text)
    edit("filter", colours, "--taste", "0.5..", "-o", tmp_path / "out")
    (row,) = rows(edit("cat", tmp_path / "out", "-f", "jsonl"))
    assert name_of(row) == "green" and row["scores"]["taste"] == pytest.approx(220 / 255, abs=0.01)
    assert [row["reason"] for row in rejects(tmp_path / "out")] == ["taste"] * 3
    assert "plain-taste@" in edit("filter", colours, "--taste", "0.5..", "-o", tmp_path / "new", "-n")
    shutil.copytree(weights / "plain-taste", weights / "other-taste", dirs_exist_ok=True)
    other = edit("filter", colours, "--taste", "..", "--taste-weights", "other-taste", "-f", "jsonl")
    assert "taste_other_taste" in rows(other)[0]["scores"], "scores of two models do not pass for one another"
    lacking = edit.error("filter", colours, "--taste", "..", "--taste-weights", "absent", "-f", "jsonl", check=1)
    assert "fetch https://example.org/taste.pth" in lacking


# ---------------------------------------------------------------- dedup


def test_a_signature(edit: Edit, colours: Path, tmp_path: Path) -> None:
    for text in (edit("dedup", "--help"), edit("man", "dedup")):
        assert "ahash: near copies by the average hash" in flat(text)
        assert "ahash, phash: near copies differ in at most" in flat(text)
    edit("dedup", colours, "--method", "ahash", "--distance", 6, "-o", tmp_path / "out")
    (dropped,) = rejects(tmp_path / "out")
    assert dropped["reason"] == "duplicate" and dropped["value"]["metric"] == "ahash"
    assert isinstance(dropped["value"]["distance"], int) and dropped["value"]["distance"] <= 6
    settings = edit("dedup", colours, "--method", "ahash", "-o", tmp_path / "new", "-n")
    assert '"method": "ahash"' in settings


def test_an_embedder_and_its_release(edit: Edit, colours: Path, weights: Path, tmp_path: Path) -> None:
    text = flat(edit("dedup", "--help"))
    assert "isc21, sscd, tiles, or any embedding model" in text and "0.99 for tiles" in text
    asked = ("dedup", colours, "--method", "tiles", "-o", tmp_path / "out")
    assert "fetch https://example.org/tiles-4.pth and convert it" in edit.error(*asked, check=1)
    torch.save({"tiles.side": torch.tensor(4)}, tmp_path / "tiles-4.pth")
    made = edit.python("-m", "edittools.convert", tmp_path / "tiles-4.pth", weights / "tiles-4")
    assert made.stderr.startswith("tiles: ")
    edit(*asked)
    (dropped,) = rejects(tmp_path / "out")
    assert dropped["value"]["metric"] == "tiles" and 0 < dropped["value"]["distance"] <= 0.01


# ---------------------------------------------------------------- formats


def test_an_output_format_and_an_input_reader(edit: Edit, colours: Path, tmp_path: Path) -> None:
    for text in (edit("cat", "--help"), edit("man", "cat")):
        assert "[arrows|jsonl|md|parquet|shards|table|tar]" in flat(text) and "X.jsonl, X.md, X.parquet" in flat(text)
    sections = ("[one]\nimage = red.png\ncaption = red\n", "[two]\nimage = green.png\ncaption = green\n")
    (colours / "all.ini").write_text("".join(sections))
    edit("cat", colours / "all.ini", "-o", tmp_path / "all.md")
    assert (tmp_path / "all.md").read_text() == "| id | task |\n|---|---|\n| one | t2i |\n| two | t2i |\n"
    assert edit("cat", colours / "all.ini", "-f", "md") == (tmp_path / "all.md").read_text()
    assert "end it with / for a shard set, or with .arrows, .jsonl, .md, .parquet or .tar" in edit.error(
        "cat", colours / "all.ini", "-o", tmp_path / "all.what", check=2
    )
    found = rows(edit("filter", colours / "all.ini", "--warmth", "100..", "-f", "jsonl"))
    assert [(row["id"], row["caption"]["en"]) for row in found] == [("one", "red")]
    (colours / "all.ini").unlink()


def test_a_data_set(edit: Edit, colours: Path, tmp_path: Path) -> None:
    wishes = (["make it green", "green!"], ["make it blue"])
    records = (
        {"before": "red.png", "after": f"{name}.png", "wishes": wish, "what": "recolour"}
        for name, wish in zip(("green", "blue"), wishes)
    )
    (tmp_path / "set").mkdir()
    (tmp_path / "set/shades-1.jsonl").write_text("\n".join(map(json.dumps, records)))
    edit("shard", tmp_path / "set", "--from", "shades", "--root", colours, "-o", f"{tmp_path}/out/")
    found = rows(edit("cat", tmp_path / "out", "-f", "jsonl"))
    assert [row["instruction"]["en"] for row in found] == ["make it green", "make it blue"]
    assert {(row["task"], row["provenance"]["license"]) for row in found} == {("color", "cc0-1.0")}
    assert "Shades, 2 pairs; license: cc0-1.0" in flat(edit("man", "datasets").replace("\\-", "-"))


# ---------------------------------------------------------------- words


def test_a_template_and_a_style(edit: Edit, colours: Path, tmp_path: Path) -> None:
    edit("synth", colours, "--templates", "negative_red", "-o", tmp_path / "pairs")
    edit("caption", tmp_path / "pairs", "--styles", "shouted", "-o", tmp_path / "said")
    found = rows(edit("cat", tmp_path / "said", "-f", "jsonl"))
    assert len(found) == 4 and all(row["task"] == "tone" for row in found)
    for row in found:
        assert "INVERT" in row["instruction_shouted"]["en"] and "红" in row["instruction_shouted"]["zh"]
        assert row["instruction"]["en"].lower().startswith("invert")
    assert "negative_red" in edit("synth", "--list")
    assert "shouted" in edit.error("caption", tmp_path / "pairs", "--styles", "none-such", "-f", "jsonl", check=2)


# ---------------------------------------------------------------- objects


def test_a_detector(edit: Edit, colours: Path) -> None:
    assert "reddest" in flat(edit("ground", "--help")) and "the reddest quarter of the image" in edit(
        "ground", "--list"
    )
    found = {name_of(row): row for row in rows(edit("ground", colours, "--detector", "reddest", "-f", "jsonl"))}
    assert [bool(found[name]["objects"]) for name in ("red", "green", "blue")] == [True, False, False]
    (one,) = found["red"]["objects"]
    assert (one["name"], one["detector"], one["area"]) == ("red", "reddest", 0.25) and one["score"] > 0.7


# ---------------------------------------------------------------- judges and people


def test_a_rubric_and_a_backend(edit: Edit, colours: Path, tmp_path: Path) -> None:
    text = flat(edit("judge", "--help"))
    assert "canned: always the same reply." in text and "--canned-reply VALUE What --backend canned answers." in text
    assert "fidelity" in text
    edit("synth", colours, "--templates", "negative_red", "-o", tmp_path / "pairs")
    judge = ("judge", tmp_path / "pairs", "--rubric", "fidelity", "--model", "nobody", "-o", tmp_path / "judged")
    edit(*judge, "--backend", "canned", "--canned-reply", '{"rationale": "so", "fidelity": 4}')
    found = rows(edit("cat", tmp_path / "judged", "-f", "jsonl"))
    assert [row["scores"]["judge_fidelity_overall"] for row in found] == [4] * 4
    assert found[0]["judgements"][0]["state"] == "ok"
    told = edit.error(*judge, "--backend", "echo", "--canned-reply", "x", check=2)
    assert "--canned-reply is for a canned reply: the backend is echo" in told


def test_a_design_of_a_study(edit: Edit, colours: Path, tmp_path: Path) -> None:
    build = ("eval", "study", "build")
    assert "realism: real or not, of every result." in flat(edit(*build, "--help"))
    assert "realism: real or not, of every result." in flat(edit("man", "eval-study-build"))
    case = {"id": "red", "task": "tone", "instruction": "make it red", "source": "green.png"}
    (colours / "cases.jsonl").write_text(json.dumps(case) + "\n")
    models = [word for name in ("a", "b") for word in ("--model", f"{name}={colours}")]
    edit(*build, colours / "cases.jsonl", *models, "--design", "realism", "-o", tmp_path / "study")
    (colours / "cases.jsonl").unlink()
    key = json.loads((tmp_path / "study/key.json").read_text())
    page = (tmp_path / "study/study.html").read_text()
    assert key["design"] == "realism" and "Does each result look like a photograph?" in page
    given = {letter: {"realism": 2 if model == "a" else 1} for letter, model in key["cases"][0]["results"].items()}
    answers = {"format": "edittools study answers", "version": 1, "study": key["study"], "rater": "me",
               "answers": {"0": {"given": given, "shown": ["a", "b"]}}}  # fmt: skip
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    scored = json.loads(edit("eval", "study", "score", tmp_path / "study/key.json", tmp_path / "answers.json"))
    means = {model: entry["mean"] for model, entry in scored["dimensions"]["realism"]["full"].items()}
    assert means == {"a": 1, "b": 0}


def test_a_benchmark_and_its_published_table(edit: Edit, colours: Path, tmp_path: Path) -> None:
    for page in (edit("eval", "cases", "--help"), edit("man", "eval-cases")):
        assert "postcards" in flat(page) and "edit eval cases postcards Postcards/ -o cases/" in flat(page)
    for verb in ("report", "rescore", "compare"):
        assert "postcards" in "".join(edit("eval", verb, "--help").split()), "words are broken where a line ends"
    assert "multiturn, pairwise, postcards, rating, text" in flat(edit("judge", "--help")), (
        "a rubric that needs no --prompts"
    )
    assert "postcards" in flat(edit("shard", "--help")), "its names of tasks"
    assert "postcards: an invented paper, Table 1" in flat(edit("man", "eval", "postcards"))
    copy, work = shutil.copytree(colours, tmp_path / "copy"), tmp_path
    asked = [("red", "recolour", "make it green"), ("green", "stamp", "add a stamp"), ("blue", "stamp", "add two")]
    lines = [{"key": key, "task": task, "instruction": say, "image": f"{key}.png"} for key, task, say in asked]
    (copy / "postcards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit("eval", "cases", "postcards", copy, "--results", copy, "-o", work / "cases")
    found = rows(edit("cat", work / "cases", "-f", "jsonl"))
    assert [(row["task"], row["instruction"]["en"]) for row in found] == [
        ("color", "make it green"), ("add", "add a stamp"), ("add", "add two")
    ]  # fmt: skip
    judge = ("judge", work / "cases", "--rubric", "postcards", "--model", "nobody", "-o", work / "judged")
    edit(*judge, "--backend", "canned", "--canned-reply", '{"rationale": "so", "score": 4}')
    report = ("eval", "report", "postcards", work / "judged", "--name", "mine")
    told = json.loads(edit(*report, "--outputs", work / "outputs", "-f", "json", "-o", work / "report.html"))
    assert told["official"] == {"recolour": 4, "stamp": 4, "average": 4}
    assert told["macro"]["score"]["mean"] == 4 and told["coverage"]["total"]["judged"] == 3
    page = (work / "report.html").read_text()
    assert "an invented paper, Table 1" in page and "Gouache" in page and "mine (here)" in page
    # its own script's file: a reply that it takes for a 2, and that says no score by the rubric
    replies = json.loads((work / "outputs/judged.json").read_text())
    assert replies.keys() == {"red", "green", "blue"}
    (work / "outputs/judged.json").write_text(json.dumps({**replies, "blue": "2 of 10 stamps"}))
    again = json.loads(edit("eval", "rescore", "postcards", work / "outputs/judged.json", "-f", "json"))
    assert again["official"] == {"recolour": 4, "stamp": 3, "average": 3.5}
    assert again["strict"]["tasks"]["stamp"]["n"] == 1 and again["coverage"]["total"]["failed"] == 1


# ---------------------------------------------------------------- training


def test_an_architecture_an_optimizer_and_a_recipe(edit: Edit, colours: Path, tmp_path: Path) -> None:
    shown = edit("train", "-n", "--recipe", "hasty")
    assert re.search(r"^steps = 2  # .+ \[hasty: enough to see that it runs\]$", shown, re.M)
    assert '"signsgd" (the signs of the gradient)' in shown
    assert "hasty" in edit.error("train", "-n", "--recipe", "none-such", check=2)
    recipe = (EXAMPLES / "train/recipes/hasty.toml").read_text().partition("[model]")[0]
    recipe = recipe.replace('"small"', '"copier"').replace('"adamw"', '"signsgd"') + "[model]\nwidth = 32\nlayers = 1\n"
    (tmp_path / "mine.toml").write_text(recipe)
    train = ("train", "--recipe", tmp_path / "mine.toml")
    assert "model.width = 32  # of the network and of its text encoder, a multiple of 16 [mine]" in edit(*train, "-n")
    planned = edit(*train, "-n", "--budget")
    trained, kept = (re.search(rf"{word} ([\d.]+ MB)", planned)[1] for word in ("trained", "optimizer"))
    assert trained == kept, "four bytes for each number, as the optimizer declares"
    wrong = edit.error(*train, "-n", "--set", "optimizer_settings.speed=1", check=2)
    assert "signsgd has no `speed`" in wrong and "momentum" in wrong
    edit("synth", colours, "--templates", "negative_red", "-o", tmp_path / "pairs")
    edit(*train, tmp_path / "pairs", "--set", "optimizer_settings.momentum=0.5", "-o", tmp_path / "run", "-q")
    made = json.loads((tmp_path / "run/config.json").read_text())["recipe"]
    assert (made["system"], made["optimizer"], made["optimizer_settings"]) == ("copier", "signsgd", {"momentum": 0.5})


def test_an_objective_with_weights_of_its_own(edit: Edit, colours: Path, tmp_path: Path) -> None:
    train = ("train", "--recipe", "hasty", "--set", "objective=anchored")
    assert '"anchored" (supervised, near the weights that it begins with)' in edit(*train, "-n")
    planned = edit(*train, "-n", "--budget")
    trained, kept = (re.search(rf"{word} ([\d.]+ MB)", planned)[1] for word in ("trained", "copies"))
    assert trained == kept, "one copy, as the objective declares"
    wrong = edit.error(*train, "-n", "--set", "objective_settings.speed=1", check=2)
    assert "anchored has no `speed`" in wrong and "strength" in wrong
    edit("synth", colours, "--templates", "negative_red", "-o", tmp_path / "pairs")
    edit(*train, tmp_path / "pairs", "-o", tmp_path / "run", "-q")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    drift = [line["objective"]["drift"] for line in lines]
    assert drift[0] == 0 and drift[1] > 0, "before the first step nothing has moved"


# ---------------------------------------------------------------- other packages


def test_another_package_adds_to_every_kind(colours: Path, weights: Path, tmp_path: Path) -> None:
    """Installed as pip does it: modules, and a dist-info that names its entry points."""
    points: dict[str, list[str]] = {}
    for name in FILES:
        folder, _, file = name.removesuffix("/__init__.py").rpartition("/")
        if folder in GROUPS:
            place = tmp_path / "site/toy" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLES / name, place)
            if name.endswith(".toml"):
                continue  # a table beside its benchmark
            stem = file.removesuffix(".py")
            points.setdefault(GROUPS[folder], []).append(f"{stem} = toy.{folder.replace('/', '.')}.{stem}")
    (tmp_path / "site/toy/recipes").mkdir()
    (tmp_path / "site/toy/recipes/__init__.py").touch()
    shutil.copy(EXAMPLES / "train/recipes/hasty.toml", tmp_path / "site/toy/recipes")
    points["edittools.recipes"] = ["hasty = toy.recipes"]
    info = tmp_path / "site/toy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    sections = ("\n".join([f"[{group}]", *lines]) for group, lines in points.items())
    (info / "entry_points.txt").write_text("\n".join(sections) + "\n")
    assert len(points) == len(GROUPS) + 1

    edit = Edit(ROOT / "src", tmp_path / "site", weights=weights, logs=tmp_path / "logs")
    found = rows(edit("filter", colours, "--warmth", "100..", "--taste", "..", "-f", "jsonl"))
    assert [name_of(row) for row in found] == ["red"] and found[0]["scores"].keys() == {"taste", "warmth"}
    assert "| t2i |" in edit("cat", colours, "-f", "md")
    listed = edit("caption", "--list")
    assert "weather        the weather" in listed and "scores.caption_politeness" in listed
    helps = {
        "dedup": ["ahash: near copies", "tiles, or any embedding model"],
        "ground": ["person, reddest, sam3"],
        "judge": ["canned: always the same reply", "--canned-reply"],
    }
    for command, wanted in helps.items():
        text = flat(edit(command, "--help"))
        assert all(words in text for words in wanted), command
    assert "realism: " in flat(edit("eval", "study", "build", "--help"))
    assert "postcards" in flat(edit("eval", "cases", "--help"))
    added = ("--set", "optimizer=signsgd", "--set", "objective=anchored")
    assert "system = 'small'" in edit("train", "-n", "--recipe", "hasty", *added)
    names = (
        "from edittools.nets import architecture_names; from edittools.bench import published; "
        "from edittools.synth.registry import atomic_names; "
        "from edittools.caption.captions import style_names; from edittools.stream.readers import READERS; "
        "from edittools.caption.checks import CHECKS; from edittools.caption.kind import KINDS; "
        "print(*architecture_names(), *atomic_names(), *style_names(), *READERS.names, *published.names(), "
        "*KINDS.names, *CHECKS.names)"
    )
    assert {"copier", "negative_red", "shouted", "ini", "postcards", "weather", "politeness"} <= set(
        edit.python("-c", names).stdout.split()
    )

    (info / "entry_points.txt").write_text("[edittools.filters]\nsharpness = toy.filter.filters.warmth\n")
    edit.forge.close()
    twice = edit.python("-m", "edittools", "filter", colours, "--sharpness", "..", "-f", "jsonl", check=1).stderr
    assert "`sharpness` is both edittools.filter.filters.sharpness and toy.filter.filters.warmth" in twice


def test_the_document_shows_the_tested_examples() -> None:
    document = (ROOT / "docs/EXTENDING.md").read_text()
    for name in FILES:
        kind = "toml" if name.endswith(".toml") else "python"
        shown = f"`src/edittools/{name}`:\n\n```{kind}\n{(EXAMPLES / name).read_text()}```\n"
        assert shown in document, name
    for group in (*GROUPS.values(), "edittools.recipes"):
        assert f"`{group}`" in document


def test_a_broken_file_is_told_and_stops_nobody_else(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    package = tmp_path / "kinds_of_a_test"
    package.mkdir()
    for name, text in {"__init__": "", "bad": "import nowhere", "empty": "", "good": "KIND = 7"}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("kinds_of_a_test", "kinds.of_a_test")
    registry.folder = package
    assert registry.each("KIND") == {"good": 7}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "(kinds_of_a_test.bad): ModuleNotFoundError" in told[0] and "KIND" in told[1]
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        registry.load("bad")


def test_declared_constants_are_read_without_importing_their_module(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "one.py").write_text("import nowhere\nHELP = 'said'\nMADE = nowhere.make()\nTAKES = ('a', 2)\n")
    registry = Registry("edittools.none", "edittools.none")
    registry.folder = tmp_path
    assert registry.names == ("one",)
    assert registry.declared("HELP") == {"one": "said"} and registry.declared("TAKES") == {"one": ("a", 2)}
    assert registry.declared("MADE", "computed") == {"one": "computed"}
    with pytest.raises(ModuleNotFoundError):
        monkeypatch.setitem(registry.modules, "one", "nowhere.one")
        registry.load("one")
