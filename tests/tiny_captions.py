"""A narrow world of exactly known edits, in which a vision-language model of random weights learns to write captions.

A large square in one of four colours comes to, or goes from, one of four corners of a grainy grey picture: 32 edits of
the templates `add` and `remove`, told by the grammar in one manner. An image is one token of Qwen3-VL.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import encode
from signs import tools
from tiny_vlm import tiny_model

import edittools
from edittools.bench.captions import MEASURES, CaptionTest
from edittools.caption.captions import caption
from edittools.record import PROVENANCE, TEXT
from edittools.stream.run import RunOptions, open_input
from edittools.synth.registry import load
from edittools.train.config import load_recipe
from edittools.train.console import TrainOptions, train_with_progress
from edittools.train.replies import ReplyRows
from edittools.train.settings import TrainConfig

SIDE = 32  # pixels
EDITS = list(itertools.product(
    ("add", "remove"), ("red", "green", "blue", "yellow"), ("square",),
    ("top_left", "top_right", "bottom_left", "bottom_right"),
))  # fmt: skip


def drawn(folder: Path, count: int, seed: int, taught: bool = True) -> Path:
    """Rows of the edits in turn, each with a picture of its own; not `taught`: without what a captioner has to find."""
    random, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        template, color, shape, place = EDITS[k % len(EDITS)]
        slots = {"color": color, "shape": shape, "size": "large", "place": place}
        grain = random.integers(90, 160, (1, 1, 3)) + random.integers(-12, 13, (SIDE, SIDE, 3))
        plain = grain.astype(np.uint8)
        pair = [plain, load("add").apply(plain, slots, tools())]
        for name, pixels in zip("st", pair if template == "add" else pair[::-1]):
            (folder / f"{name}{k}.png").write_bytes(encode(pixels, "PNG"))
        row = {"id": f"{seed}-{k}", "source": [f"s{k}.png"], "target": f"t{k}.png",
               "provenance": {"template": template, "slots": json.dumps(slots)}}  # fmt: skip
        if taught:
            thing = f"a large {color} {shape}"
            before, after = ("", thing) if template == "add" else (thing, "")
            where = place.replace("_", " ")
            change = {"action": template, "object": f"the {color} {shape}", "before": before, "after": after}
            told = caption(template, slots, "in one manner")["detailed"]["en"]
            row |= {"task": template, "changes": [change | {"where": where}], "instruction_detailed": {"en": told}}
        rows.append(row)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edittools.read(str(folder / "rows.jsonl")).write(str(folder / "set"))
    return folder / "set"


def untrained(folder: Path, rows: Path) -> Path:
    """A Qwen3-VL of random weights, whose tokenizer has learned from what is asked about the rows, and answered."""
    recipe = load_recipe("captioner", {"objective_settings.task": False})
    found = ReplyRows(recipe, open_input([str(rows)], RunOptions()), 10**8)
    texts = [
        text for k in range(min(len(found), 200))
        for text in (*(part for part in found.message(k, "detailed") if isinstance(part, str)),
                     found.replies(k)["detailed"])
    ]  # fmt: skip
    return Path(tiny_model(folder, "Qwen3VL", texts, width=64))


def learn(rows: Path, out: Path, weights: Path, steps: int, seed: int = 0) -> Path:
    """Eight rows a step, by the recipe `captioner`, which is told no task."""
    settings: dict[str, Any] = {
        "resolution": [SIDE, SIDE], "batch_tokens": 16, "microbatches": 1, "steps": steps, "warmup": min(20, steps),
        "lr": 3e-3, "seed": seed, "dtype": "float32", "checkpointing": "none", "checkpoint_every": 100_000,
        "model.weights": str(weights), "model.vision_rate": 1.0, "model.language_rate": 1.0,
        "objective_settings.task": False,
    }  # fmt: skip
    overrides = tuple(f"{name}={json.dumps(value)}" for name, value in settings.items())
    config = TrainConfig(recipe="captioner", overrides=overrides)
    source = open_input([str(rows)], RunOptions())
    train_with_progress(config.load(), source, TrainOptions(config, str(out), quiet=True))
    return out


def told_right(rows: Path, model: Path, out: Path) -> dict[str, float]:
    """By measure of `edit eval captions` the share of all rows that the model's captions have right; `claims`: likewise
    of its lists of changes, `shuffled`: of captions held against another row's edit.
    """
    settings = {"kinds": "detailed", "language": "en", "model": str(model), "max_tokens": 200, "attempts": 1}
    made = edittools.read(str(rows)).caption(**settings, batch_size=32, cache_dir=f"{out}.replies")
    made.write(str(out), max_errors="100%")
    count = len(list(edittools.read(str(rows)).rows()))
    found = dict.fromkeys((*MEASURES, "claims", "shuffled"), 0.0) | _shares(out, count)
    others = list(edittools.read(str(out)).rows())
    if not others:
        return found
    told = pa.table({
        "id": [row["id"] for row in others],
        "instruction_detailed": pa.array([row["instruction_detailed"] for row in others], TEXT),
        "provenance": pa.array([others[k - 1]["provenance"] for k in range(len(others))], PROVENANCE),
    })  # fmt: skip
    shuffled = out.with_name(f"{out.name}-shuffled.parquet")
    pq.write_table(told, shuffled)
    return found | {"shuffled": _shares(shuffled, count).get("right", 0.0)}


def _shares(rows: Path, count: int) -> dict[str, float]:
    if not any(batch.rows.num_rows for batch in edittools.read(str(rows)).batches()):
        return {}  # nothing that could be read
    texts = CaptionTest(open_input([str(rows)], RunOptions())).summary()["texts"]

    def shares(column: str, language: str) -> dict[str, float]:
        measures = texts.get(column, {}).get(language, {}).get("all", {})
        return {name: each["mean"] * each["n"] / count for name, each in measures.items()}

    claims = shares("changes", "en").get("right", 0.0)
    return {**shares("instruction_detailed", "en"), **shares("task", ""), "claims": claims} | {
        "right": shares("instruction_detailed", "en").get("right", 0.0)
    }
