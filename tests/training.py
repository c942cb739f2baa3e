"""Tiny rows, recipes and runs for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edittools.models.systems import load_system
from edittools.train import load_recipe
from edittools.train.features import Encoder
from edittools.train.folder import Data, kept_words, open_run
from edittools.train.heldout import HeldOut
from edittools.train.loop import train
from edittools.train.plan import Plan
from edittools.train.rows import TARGET, Row

TINY = {
    "sides": [16, 16],
    "batch_tokens": 48,  # six rows of four target and four reference tokens
    "steps": 12,
    "checkpoint_every": 4,
    "log_every": 2,
    "model.patch": 8,
    "model.layers": 2,
    "model.heads": 2,
    "model.head_dim": 16,
    "model.rope": [4, 6, 6],
    "model.text_width": 16,
    "model.text_heads": 2,
    "model.text_layers": 1,
    "model.max_words": 8,
}


def tiny(**overrides):
    """The recipe `demo`, made tiny; `model_layers` is `model.layers`."""
    return load_recipe("demo", {**TINY, **{k.replace("model_", "model."): v for k, v in overrides.items()}})


class MemoryRows:
    """Rows that are given as (Row, [sources..., target])."""

    def __init__(self, rows, bad=None, masks=None):
        self.rows, self.bad, self.data_id, self.masks = rows, bad, f"memory {len(rows)}", masks or {}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index][0]

    def picture(self, index, which, shape=None):
        if index == self.bad:
            raise RuntimeError("unreadable")
        return self.rows[index][1][which]

    def mask(self, index):
        return self.masks.get(index)

    def place(self, index, which):
        return f"{self.rows[index][0].id}/{which % len(self.rows[index][1])}"

    def content(self, index, which):
        import hashlib

        return hashlib.sha256(self.picture(index, which).tobytes()).hexdigest()


def edit_row(identity: str, sources: list[np.ndarray], target: np.ndarray, text: str, **more: Any):
    texts = {("instruction" if sources else "original", "en"): text}
    row = Row(identity, more.pop("task", "tone"), "t", texts, [s.shape[:2] for s in sources], target.shape[:2], **more)
    return row, [*sources, target]


def pairs(count=20, references=lambda k: 1, side=16):
    """Pictures of coarse noise; the instruction decides between inverting and copying."""
    random, rows = np.random.default_rng(0), []
    for k in range(count):
        picture = random.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
        text = "leave it alone" if k % 2 else "invert the colors"
        target = picture if k % 2 else 255 - picture
        rows.append(edit_row(f"row-{k}", [picture] * references(k), target, text))
    return rows


def run(recipe, rows, out: Path, **options):
    """Open the run folder and train; an outcome of a run that was finished before is returned as it is."""
    overwrite, data = options.pop("overwrite", False), options.pop("data", Data.of(rows))
    parallel, branch = options.get("parallel"), options.get("branch")

    def begin():
        return open_run(out, recipe, data, overwrite, branch)

    finished = begin() if parallel is None else parallel.on_main(begin)
    if finished:
        return finished
    system = load_system(
        recipe.system, recipe.model, seed=recipe.seed, dtype="float32",
        texts=lambda: kept_words(out, branch) or sorted({t for row, _ in rows.rows for t in row.texts.values()}),
    )  # fmt: skip
    plan = Plan(recipe, rows, system.patch, system.multiple, system.one_row)
    if held := options.pop("heldout", None):
        options["heldout"] = HeldOut(recipe, held, system, Encoder(system, held))
    return train(recipe, plan, system, Encoder(system, rows), out, **options)


__all__ = ["TARGET", "MemoryRows", "edit_row", "pairs", "run", "tiny"]
