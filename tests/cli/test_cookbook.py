"""Every shell block of docs/ is run, in its order, with tiny models and small images in the place of real ones."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Runner, encode, pixels, rejects_of, rows_of, tree
from PIL import Image, ImageEnhance, ImageFilter
from test_cases import make_gedit
from test_clients import Server, chat, response
from test_consistency import TINY, tiny_network
from test_examples import BIN, environment, images
from test_help_examples import DEMO, PUBLISHED
from test_help_examples import run as run_line
from test_rescore import GEDIT, gedit_row, write_gedit
from tiny_architectures import save_firered
from tiny_models import save_clip, save_dino

from edittools.weights.lookup import save_converted

sys.path.append(str(ROOT / "tests/painters"))
from test_editors import Service

sys.path.append(str(ROOT / "tests/ground"))
from tiny_grounding import save_groundingdino

# What is changed in a line, beside the settings that make training short.
SMALLER = {"--device cuda": "--device cpu", "--dtype bfloat16 ": ""}
SBATCH = """
# Runs a batch script, or what --wrap says, at once: every task of the array that its header names.
import os, re, subprocess, sys
words = [word for word in sys.argv[1:] if word != "--parsable" and not word.startswith("--dependency=afterok:")]
if words[0] == "--wrap":
    subprocess.run(["bash", "-c", words[1]], check=True, stdout=subprocess.DEVNULL)
else:
    last = int(re.search(r"^#SBATCH --array=0-(\\d+)$", open(words[0]).read(), re.M)[1])
    for task in range(last + 1):
        slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": str(last + 1)}
        subprocess.run(["bash", words[0]], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **slurm})
print(17)
"""


def sections(document: str) -> dict[str, str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return {part.partition("\n")[0]: part for part in text.split("\n## ")[1:] if "```sh\n" in part}


COOKBOOK, CLUSTER = sections("COOKBOOK.md"), sections("CLUSTER.md")


def blocks(section: str) -> Iterator[tuple[str, str]]:
    """(language and file name, text) of every fenced block."""
    yield from re.findall(r"^```(\w+[^\n]*)\n(.*?)^```$", section, re.M | re.S)


def shortened(line: str) -> str:
    for old, new in SMALLER.items():
        line = line.replace(old, new)
    settings = DEMO if "--recipe demo" in line else PUBLISHED if "--recipe" in line else {}
    if "--recipe lora" in line:
        settings = {
            name: settings[name]
            for name in ("steps", "microbatches", "batch_tokens", "resolution", "ratios", "compile")
        }
    line += "".join(f" --set '{name}={json.dumps(value)}'" for name, value in settings.items())
    if "edit sample" in line:
        line = re.sub(r"edit sample ([^|]*)", r"edit sample \1 --steps 2 ", line)
        line = line.replace("--steps 2", "--steps 2 --resolution 64") if "Qwen" in line or "--lora" in line else line
    return line


def execute(
    section: str,
    folder: Path,
    edit: Runner,
    replaced: dict[str, str] | None = None,
    people: Callable[[str], None] = lambda line: None,
    **exported: str,
) -> None:
    """Every `sh` block line by line, edit's commands in warm processes; other blocks with a file's name are files.

    After every line `people` do what they do then; `exported` is in the environment.
    """
    for kind, text in blocks(section):
        language, _, name = kind.partition(" ")
        if name:
            (folder / name).write_text(text, encoding="utf-8")
        if language != "sh":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for old, new in (replaced or {}).items():
                line = line.replace(old, new)
            if line.startswith("export "):
                exported |= dict(word.split("=", 1) for word in line.split()[1:])
            elif line.startswith("edit ") and not any(w[0] == ">" or w[:5] == "--ray" for w in shlex.split(line)):
                words = (names_of(word, folder) for word in shlex.split(shortened(line)))
                run_line(edit, [name for names in words for name in names], folder, exported or None)
            else:  # `name=$(...)` holds over the lines of a block
                done = subprocess.run(
                    ["bash", "-euc", shortened(line)], cwd=folder, env=environment(**exported), capture_output=True,
                    text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{line}\n{done.stderr}"
                variable = re.match(r"(\w+)=\$\(", line)
                if variable:
                    exported[variable[1]] = "17"
            people(line)


def names_of(word: str, folder: Path) -> list[str]:
    """What the shell makes of a pattern of answers."""
    return sorted(glob.glob(word, root_dir=folder)) if word.endswith("*.json") else [word]


@pytest.fixture
def folder(tmp_path: Path, model_edit: Runner) -> Path:
    """A crawl with copies and broken files, and a clean set of its photographs."""
    images(tmp_path / "crawl", 12, 0)
    shutil.copy(tmp_path / "crawl/003.png", tmp_path / "crawl/copy.png")
    (tmp_path / "crawl/broken.jpg").write_bytes(encode(pixels(1))[:300])
    return tmp_path


def test_every_recipe_has_its_test() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(f'COOKBOOK["{title}"]' in tested for title in COOKBOOK)


def test_deduplicate_a_crawl(folder: Path, model_edit: Runner) -> None:
    images(folder / "crawl2", 3, 5)
    shutil.copy(folder / "crawl/005.png", folder / "crawl2/again.png")
    execute(COOKBOOK["Deduplicate a crawl"], folder, model_edit)
    assert [one["reason"] for one in rejects_of(folder / "unique")] == ["duplicate"]
    assert len(rows_of(folder / "first")) == 12 and len(rows_of(folder / "second")) == 3
    assert "<img" in (folder / "copies.html").read_text()


def test_filter_by_quality(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "unique/", "--max-errors", "20%", cwd=folder)
    execute(COOKBOOK["Filter by quality"], folder, model_edit)
    assert json.loads((folder / "statistics.json").read_text())
    assert {one["reason"] for one in rejects_of(folder / "clean")} == {"sharpness"}
    assert {row["why_not"] is None for row in rows_of(folder / "marked")} == {True, False}


def test_train_on_synthetic_pairs(folder: Path, model_edit: Runner) -> None:
    (folder / "crawl/broken.jpg").unlink()
    model_edit("shard", "crawl/", "-o", "clean/", cwd=folder)
    images(folder / "heldout", 2, 1)
    execute(COOKBOOK["Make a training set of synthetic pairs, train a small model, measure it"], folder, model_edit)
    assert (folder / "report.html").stat().st_size > 10_000
    assert all(row["scores"]["psnr"] is not None for row in rows_of(folder / "scored"))


def test_clean_edit_pairs(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", "--limit", 12, cwd=folder)
    model_edit("synth", "raw/", "--crop", 60, "--templates", "add,invert", "--per-row", 2, "-o", "made/", cwd=folder)
    rows = model_edit("cat", "made/", "-f", "jsonl", cwd=folder).lines
    added = {**next(row for row in rows if row["task"] == "add"), "provenance": None}
    rows += [added, {**added, "target": added["source"][0]}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model_edit("shard", "rows.jsonl", "-o", "pairs/", cwd=folder)
    execute(COOKBOOK["Clean a set of edit pairs"], folder, model_edit)
    assert {row["task"] for row in rows_of(folder / "distinct")} == {"add"}  # an inversion changes every pixel
    assert len(rows_of(folder / "changed")) - len(rows_of(folder / "distinct")) == 1


def test_find_pairs_before_and_after(
    folder: Path, model_edit: Runner, wheel: None, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.fromarray(astronaut[:320, 60:400])
    soft, cat = (
        photo.filter(ImageFilter.MedianFilter(3)),
        Image.fromarray(pytest.importorskip("skimage.data").chelsea()[:240, :320]),
    )
    moved = Image.fromarray(np.roll(np.asarray(photo), 60, axis=1))
    for name, before, after in (
        ("{}/soft", photo, ImageEnhance.Brightness(soft).enhance(1.2)),
        ("warm_{}", photo, ImageEnhance.Color(photo).enhance(2)),
        ("{}-gray", photo, ImageEnhance.Color(photo).enhance(0)), ("moved {}", photo, moved), ("same_{}", photo, photo),
        ("cat_{}", cat, ImageEnhance.Brightness(cat).enhance(1.2)),
    ):  # fmt: skip
        for word, shown in (("before", before), ("after", after)):
            path = folder / "found" / f"{name.format(word)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shown.save(path)
    photo.save(folder / "found/alone_before.png")
    save_converted(
        folder / "arcface", tiny_network().state_dict(),
        {"model_type": "arcface", **dict(zip(("widths", "depths", "dim"), TINY))},
    )  # fmt: skip
    told = {"instruction": {"en": "Smooth the skin.", "zh": "磨皮。"}}
    change = {"action": "change", "object": "skin", "before": "", "after": "smooth skin", "where": "center"}

    def answer(prompt: str, number: int) -> list[bytes]:
        if "found together" in prompt:  # of the first pair the background does not agree
            said = {"rationale": "so", "subject": 5, "layout": 5, "background": 1 if number == 1 else 5}
        else:
            said = {"changes": [change], "task": "beauty", **told} if '"changes"' in prompt else told
        return [response(200, chat(json.dumps(said)))]

    server = Server(answer)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    try:
        recipe = COOKBOOK["Find pairs of photographs before and after a retouch"]
        execute(recipe, folder, model_edit, {"http://gpu:8000/v1": server.url})
    finally:
        server.close()
    assert len(rows_of(folder / "pairs")) == 6 and [r["reason"] for r in rejects_of(folder / "pairs")] == ["no partner"]
    paths = {row["provenance"]["path"] for row in rows_of(folder / "same")}
    assert paths == {"after/soft.png", "warm_after.png", "after-gray.png"}
    assert {row["scores"]["judge_found_pair_overall"] for row in rows_of(folder / "judged")} == {1, 5}
    rows = rows_of(folder / "persons")
    assert [row["instruction_detailed"]["en"] for row in rows_of(folder / "told")] == ["Smooth the skin."] * 2
    assert len(rows) == 2 and all(row["scores"]["copy_identity"] > 0.3 for row in rows)


def test_fine_tune_on_own_pairs(folder: Path, model_edit: Runner) -> None:
    for name, seed in (("before", 3), ("after", 4)):
        images(folder / name, 3, seed)
        for path in (folder / name).glob("*.png"):
            path.rename(path.with_suffix(".jpg"))
    save_firered(folder / "Qwen-Image-Edit-2509")
    execute(COOKBOOK["Fine-tune a published model on your own pairs"], folder, model_edit)
    assert (folder / "run-lora/pytorch_lora_weights.safetensors").exists()
    assert (folder / "watercolour.safetensors").exists()
    assert [row["instruction"]["zh"] for row in rows_of(folder / "results")] == [None, None, "画成水彩画。"]


def test_judge_with_an_endpoint(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", cwd=folder)
    model_edit("synth", "raw/", "--crop", 60, "--templates", "flip", "--limit", 4, "-o", "results/", cwd=folder)
    reply = {"rationale": "as asked", "compliance": 4, "naturalness": 3, "coherence": 5}
    server = Server(lambda prompt, number: [response(200, chat(json.dumps(reply)))])
    try:
        replaced = {"https://api.openai.com/v1": server.url}
        execute(COOKBOOK["Judge results with a model behind an endpoint"], folder, model_edit, replaced)
    finally:
        server.close()
    panel = [row["scores"] for row in rows_of(folder / "panel")]
    assert len(panel) == 4 and len(rows_of(folder / "good")) == 4
    # naturalness and coherence cannot exceed compliance: 4, 3 and 4
    assert {scores["judge_dimensions_overall__ensemble"] for scores in panel} == {3.66667}
    assert {scores["judge_dimensions_overall_spread__ensemble"] for scores in panel} == {0}


def test_how_well_a_model_captions(folder: Path, model_edit: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"en": "Add a small red star at the top.", "zh": "在顶部中间添加一个小的红色五角星。"}
    star = {"action": "add", "object": "star", "before": "", "after": "a small red star", "where": "top center"}
    detailed = json.dumps({"changes": [star], "task": "add", "instruction": told})
    server = Server(
        lambda prompt, number: [
            response(200, chat(detailed if '"changes"' in prompt else json.dumps({"instruction": told})))
        ]
    )
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    try:
        replaced = {"http://gpu:8000/v1": server.url, "--cases cases/": "--cases cases/ --limit 3"}
        execute(COOKBOOK["Find out how well a model captions pairs"], folder, model_edit, replaced)
    finally:
        server.close()
    found = json.loads((folder / "captions.json").read_text())
    assert found["list"] == "captions 1" and found["rows"] == 3 and found["expected"] == 670
    assert set(found["texts"]) == {"changes", "instruction_concise", "instruction_detailed", "task"}


def test_tag_images(folder: Path, model_edit: Runner) -> None:
    from edittools.ground.detectors import groundingdino

    save_clip(folder / "weights/openai/clip-vit-large-patch14")
    save_groundingdino(folder / "weights" / groundingdino.WEIGHTS)
    model_edit("shard", "crawl", "-o", "clean/", "--max-errors", "1", cwd=folder)
    execute(COOKBOOK["Tag images by a list of names"], folder, model_edit, EDITTOOLS_WEIGHTS=str(folder / "weights"))
    assert {len(row["tags"]) for row in rows_of(folder / "tagged")} == {3}
    few = [tag for row in rows_of(folder / "few") for tag in row["tags"]]
    assert {tag["name"] for tag in few} == {"dog", "cat", "car"}
    animals = [row["id"] for row in rows_of(folder / "animals")]
    scored = {row["id"]: max([t["score"] for t in row["tags"] if t["category"] == "animals"], default=0)
              for row in rows_of(folder / "tagged")}  # fmt: skip
    assert animals == [id for id, score in scored.items() if score > 0.1]
    assert "objects" in rows_of(folder / "objects")[0]


def test_what_a_set_lacks(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", cwd=folder)
    model_edit("synth", "raw/", "--templates", "gray", "-o", "pairs/", cwd=folder)
    (folder / "requests.txt").write_text("Make the picture black and white.\nPut a penguin on the sofa.\n")
    save_clip(folder / "clip")
    service = Service()
    key = "export OPENAI_API_KEY=sk-..."
    replaced = {key: f"{key} EDITTOOLS_API_BASE={service.url}", "google/siglip2-so400m-patch14-384": "clip"}
    try:
        execute(COOKBOOK["Find what a data set lacks"], folder, model_edit, replaced)
    finally:
        service.server.shutdown()
        service.server.server_close()
    gaps = [json.loads(line)["instruction"]["en"] for line in (folder / "gaps.jsonl").read_text().splitlines()]
    assert gaps == ["Put a penguin on the sofa."]
    filled = rows_of(folder / "filled")
    assert len(filled) == len(rows_of(folder / "raw")) and {row["task"] for row in filled} == {"add"}
    assert {row["instruction"]["en"] for row in filled} == {*gaps}


def test_compare_two_models(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", cwd=folder)
    model_edit("synth", "raw/", "--crop", 60, "--templates", "flip", "--limit", 6, "-o", "truth/", cwd=folder)
    run_line(model_edit, shlex.split(shortened("edit train truth/ --recipe demo -o run-a/")), folder)
    shutil.copytree(folder / "run-a", folder / "run-b")
    server = Server(lambda prompt, number: [response(200, chat('{"rationale": "the first", "better": 1}'))])
    try:
        key = "export OPENAI_API_KEY=sk-..."
        execute(COOKBOOK["Compare two models"], folder, model_edit, {key: f"{key} EDITTOOLS_API_BASE={server.url}"})
    finally:
        server.close()
    # a judge that always prefers the first one shown has no preference
    assert {row["scores"]["judge_pairwise_preference"] for row in rows_of(folder / "compared")} == {0.5}
    assert (folder / "compared.html").exists()


def answer(folder: Path, study: str, rater: str, given: list[dict[str, Any]]) -> None:
    """What a rater's page would export: an answer to each of the first cases, by the name of what is picked."""
    key = json.loads((folder / study / "key.json").read_text())
    head = {"format": "edittools study answers", "version": 1, "study": key["study"], "rater": rater}
    answers = {str(number): {"shown": ["a"], "at": "2026-01-01T00:00:00Z", **one} for number, one in enumerate(given)}
    (folder / f"answers-{rater}.json").write_text(json.dumps({**head, "answers": answers}))


ACCEPT, REJECT = {"given": {"a": {"decision": 1}}}, {"given": {"a": {"decision": 3}}, "reason": "other"}


def test_people_review_pairs(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", cwd=folder)
    model_edit("synth", "raw/", "--crop", 60, "--templates", "flip", "--limit", 3, "-o", "pairs/", cwd=folder)

    def people(line: str) -> None:
        """Ann accepts all, Bo rejects the first, and so does the third."""
        if " study build " in line:
            answer(folder, "review", "Ann", [ACCEPT] * 3)
            answer(folder, "review", "Bo", [REJECT, ACCEPT, ACCEPT])
        elif "--third" in line:
            assert (folder / "third.html").read_text().count('id="case-') == 1
            answer(folder, "review", "Cy", [REJECT])

    execute(COOKBOOK["Let people review pairs"], folder, model_edit, people=people)
    assert len(rows_of(folder / "reviewed")) == 2 and len(rejects_of(folder / "reviewed")) == 1


def test_make_a_benchmark(folder: Path, model_edit: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"Make the boat red.": "把船变成红色。", "Turn all of the water green.": "把水全部变成绿色。"}
    asked = [
        {"image": f"crawl/{k:03}.png", "instruction": text}
        for k, text in enumerate([*said, "Make the boat red."], 1)  # which asks for the same again
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    model_edit("shard", "requests.jsonl", "--map", "source=image", "-o", "requests/", cwd=folder)
    model_edit("synth", "requests/", "--crop", 60, "--templates", "flip", "-o", "truth/", cwd=folder)
    run_line(model_edit, shlex.split(shortened("edit train truth/ --recipe demo -o run/")), folder)

    def reply(prompt: str, number: int) -> list[Any]:
        zh = next(there for text, there in said.items() if text in prompt)
        known = {"task": "color", "concept": "boat", "group": "transportation"}
        found = known if "which kind of edit" in prompt else {"instruction": {"zh": zh}}
        return [response(200, chat(json.dumps(found)))]

    server = Server(reply)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")

    def people(line: str) -> None:
        if " study build " in line:
            for rater in ("Ann", "Bo"):
                answer(folder, "review", rater, [ACCEPT] * 2)

    try:
        replaced = {"--model gpt-4.1": f"--model gpt-4.1 --api-base {server.url}"}
        execute(COOKBOOK["Make a benchmark"], folder, model_edit, replaced, people)
    finally:
        server.close()
    texts = [next(filter(None, row["instruction"].values())) for row in rows_of(folder / "results")]
    assert sorted(texts) == sorted([*said, *said.values()])  # each in two languages, and none twice


def test_publish_a_benchmark(folder: Path, model_edit: Runner) -> None:
    """The models by their names, with random weights."""
    save_clip(folder / "weights/openai/clip-vit-large-patch14")
    save_dino(folder / "weights/facebook/dinov2-base")
    for name, seed, count in (("private", 3, 3), ("public", 4, 9)):
        images(folder / f"{name}-files", count, seed)
        asked = [
            {"image": f"{name}-files/{k:03}.png", "instruction": "Make it red.", "task": "color"} for k in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
        model_edit("shard", f"{name}.jsonl", "--map", "source=image", "-o", f"{name}/", cwd=folder)

    def people(line: str) -> None:
        if " study build " in line:
            pick = {"given": {"a": {"picked": 1}}}
            answer(
                folder,
                "choose",
                "Ann",
                [
                    {**pick, "instruction": {"en": "Let it be red."}},
                    {**pick, "instruction": {"en": "Make it blue."}},
                    {"given": {}, "none": True},
                ],
            )

    recipe = COOKBOOK["Publish a benchmark that was collected from private images"]
    execute(recipe, folder, model_edit, people=people, EDITTOOLS_WEIGHTS=str(folder / "weights"))
    near = [row["nearest"] for row in rows_of(folder / "near")]
    assert all(-1 <= one["score"] <= 1 for several in near for one in several)
    made = rows_of(folder / "benchmark")
    assert [row["instruction"]["en"] for row in made] == ["Let it be red.", "Make it blue."]
    assert [row["provenance"]["parents"] for row in made] == [[several[0]["id"]] for several in near[:2]]


def test_reproduce_an_official_number(folder: Path, model_edit: Runner) -> None:
    rows = {task: [gedit_row(task, language, "a", 4, 9) for language in ("en", "cn")] for task in GEDIT}
    write_gedit(folder / "results", rows)
    make_gedit(folder / "GEdit-Bench")
    save_firered(folder / "Qwen-Image-Edit-2509")
    execute(COOKBOOK["Reproduce a benchmark's official number"], folder, model_edit)
    assert json.loads((folder / "gedit.json").read_text())["official"]["en"]["overall"]["avg_overall"] == 6
    assert len(list((folder / "official/my-model").rglob("*.png"))) >= 6


def test_array_job_on_slurm(folder: Path, model_edit: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "crawl/broken.jpg").unlink()
    model_edit("shard", "crawl/", "--rows", 4, "-o", "raw/", cwd=folder)
    (folder / "examples").mkdir()
    script = (ROOT / "examples/slurm-array.sh").read_text()
    (folder / "examples/slurm-array.sh").write_text(script.replace("--array=0-15", "--array=0-1"))
    (folder / "bin").mkdir()
    (folder / "bin/sbatch").write_text(f"#!{BIN / 'python'}\n{SBATCH}")
    (folder / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    execute(COOKBOOK["An array job on Slurm"], folder, model_edit)
    assert len(rows_of(folder / "clean")) == 12


def test_hand_a_set_to_other_programs(folder: Path, model_edit: Runner) -> None:
    model_edit("shard", "crawl/", "-o", "clean/", "--max-errors", "20%", cwd=folder)
    execute(COOKBOOK["Hand a data set to other programs"], folder, model_edit)
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    shown = datasets.load_dataset("parquet", data_files=str(folder / "clean.parquet"), cache_dir=str(folder / "cache"))
    assert shown["train"][0]["target"].size == (72, 72)
    for tar in ("clean.tar", "clean/00000.tar"):
        read = list(webdataset.WebDataset(str(folder / tar), shardshuffle=False))
        assert len(read) == pq.read_metadata(folder / "clean/00000.parquet").num_rows == 13


def test_on_a_cluster(folder: Path, model_edit: Runner) -> None:
    """All of CLUSTER.md, one section after the other."""
    (folder / "crawl/broken.jpg").unlink()
    model_edit("shard", "crawl/", "--rows", 4, "-o", "raw/", cwd=folder)
    for section in CLUSTER.values():
        execute(section, folder, model_edit)
    assert tree(folder / "measured-by-ray") == tree(folder / "measured")
    model_edit("filter", "measured/", "--sharpness", "q10", "-o", "alone/", cwd=folder)
    assert rows_of(folder / "alone") == rows_of(folder / "clean") and len(rejects_of(folder / "clean")) == 2
    assert len(rejects_of(folder / "unique")) == 1 and len(rows_of(folder / "pairs")) == 22


def test_a_filter_in_ten_minutes_and_one_row(folder: Path, edit: Runner) -> None:
    """CONTRIBUTING.md in a copy of the sources, to which nothing but the shown files is added."""
    edit("shard", "crawl/", "-o", "raw/", "--max-errors", "20%", cwd=folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/filter").mkdir(parents=True)
    told = environment(PYTHONPATH=str(folder / "src"))
    shown = ""
    for section in sections("CONTRIBUTING.md").values():
        for kind, text in blocks(section):
            language, _, name = kind.partition(" ")
            if name:
                (folder / name).write_text(text, encoding="utf-8")
            for line in text.splitlines() if language == "sh" else ():
                line = line.replace("edit ", "python -m edittools ", 1) if line.startswith("edit ") else line
                run = ["bash", "-c", line]
                done = subprocess.run(run, cwd=folder, env=told, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{line}\n{done.stderr}"
                shown += done.stdout
    assert "--colorfulness BOUND" in shown and "(72, 72, 3)" in shown
    assert {one["reason"] for one in rejects_of(folder / "colourful")} <= {"colorfulness"}
    assert all(row["scores"]["colorfulness"] > 0 for row in rows_of(folder / "measured"))
    test = [sys.executable, "-m", "pytest", "-q", "tests/filter/test_colorfulness.py", "-p", "no:cacheprovider"]
    subprocess.run(test, cwd=folder, env=told, check=True, capture_output=True)
