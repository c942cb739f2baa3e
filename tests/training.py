"""Tiny rows, recipes and runs for the tests of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import stir

from edittools.nets import load_edit_model
from edittools.stream.row_images import image_value
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.features import Encoder
from edittools.train.folder import Data, kept_words, open_run
from edittools.train.heldout import HeldOut
from edittools.train.laid import module_once_a_machine
from edittools.train.loop import forward_backward, train
from edittools.train.objectives import TrainedModel, load_objective
from edittools.train.parallel import Parallel
from edittools.train.rows import REJECTED, TARGET, TrainRow

# A run of two 64 x 64 rows a batch, on the CPU.
TWO_STEPS = {
    "resolution": [64, 64],
    "ratios": ["1:1"],
    "batch_tokens": 64,
    "microbatches": 1,
    "variants": 1,
    "caption_dropout": 0.0,
    "steps": 2,
    "warmup": 0,
    "dtype": "float32",
    "compile": False,
    "checkpointing": "none",
    "sample_every": 0,
    "log_every": 1,
}
# Adapters of four steps on 32 x 32 rows.
ADAPTERS = {
    "model.lora.rank": 2,
    "resolution": [32, 32],
    "steps": 4,
    "ratios": ["1:1"],
    "batch_tokens": 32,
    "microbatches": 1,
    "warmup": 0,
    "compile": False,
    "attention": "",
}
TINY = {
    "resolution": [16, 16],
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

    def image(self, index, which, shape=None):
        if index == self.bad:
            raise RuntimeError("unreadable")
        images = self.rows[index][1]
        if self.rows[index][0].rejected:
            *images, rejected = images
            if which == REJECTED:
                return rejected
        return images[which]

    def reference(self, index, which):
        image = self.image(index, which)
        return image_value(np.ascontiguousarray(image))

    def mask(self, index):
        return self.masks.get(index)

    def place(self, index, which):
        return f"{self.rows[index][0].id}/{which % len(self.rows[index][1])}"

    def content(self, index, which):
        import hashlib

        return hashlib.sha256(self.image(index, which).tobytes()).hexdigest()


def edit_row(identity: str, sources: list[np.ndarray], target: np.ndarray, text: str, **more: Any):
    texts = {("instruction" if sources else "original", "en"): text}
    row = TrainRow(
        identity, more.pop("task", "tone"), "t", texts, [s.shape[:2] for s in sources], target.shape[:2], **more
    )
    return row, [*sources, target]


def pairs(count=20, references=lambda k: 1, side=16):
    """Images of coarse noise; the instruction decides between inverting and copying."""
    random, rows = np.random.default_rng(0), []
    for k in range(count):
        image = random.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
        text = "leave it alone" if k % 2 else "invert the colors"
        target = image if k % 2 else 255 - image
        rows.append(edit_row(f"row-{k}", [image] * references(k), target, text))
    return rows


def preferences(count=20):
    """Of pairs(): the source is what is wrong of those that are to be inverted, its inverse of the others."""
    return [
        (dataclasses.replace(row, rejected=row.target), [source, target, 255 - target])
        for row, (source, target) in pairs(count)
    ]


def rewarded(count=20):
    """Of pairs(): candidates near the target and far from it, with rewards that say so."""
    made = []
    for k, (row, (source, target)) in enumerate(pairs(count)):
        good = k // 2 % 2 == 0  # both instructions have good ones and bad ones
        made.append((dataclasses.replace(row, reward=0.9 if good else 0.1), [source, target if good else 255 - target]))
    return made


ONLINE = {"images": "model", "by": "psnr", "kl": 0.1, "group": 4, "sampling_steps": 2, "old_rate": 0.1, "times": 2,
          "evaluate_every": 1, "evaluate_rows": 4}  # fmt: skip
_SHORT = {"steps": 4, "microbatches": 3, "log_every": 1, "optimizer": "adamw", "lr": 3e-3, "region_weight": False}
PREFERRED: dict[str, tuple[dict[str, Any], Callable[[], MemoryRows]]] = {
    "dpo": ({**_SHORT, "objective": "dpo", "objective_settings": {"sft": 0.5}}, lambda: MemoryRows(preferences())),
    "nft": ({**_SHORT, "objective": "nft", "objective_settings": {"by": "psnr", "kl": 0.1}},
            lambda: MemoryRows(rewarded())),
    "online": ({**_SHORT, "objective": "nft", "objective_settings": ONLINE}, lambda: MemoryRows(pairs())),
}  # fmt: skip
"""Short runs of every preference objective, by name: settings of tiny(), and rows."""


def run(recipe, rows, out: Path, **options):
    """Open the run folder and train; an outcome of a run that was finished before is returned as it is.

    stirred: how much of random numbers is added to the weights at first.
    """
    overwrite, data = options.pop("overwrite", False), options.pop("data", Data.of(rows))
    parallel, branch = options.get("parallel"), options.get("branch")

    def begin():
        return open_run(out, recipe, data, overwrite, branch)

    finished = begin() if parallel is None else parallel.on_main(begin)
    if finished:
        return finished
    system = load_edit_model(
        recipe.system, recipe.model, seed=recipe.seed, dtype="float32",
        once=lambda make: make() if parallel is None else module_once_a_machine(parallel, make),
        texts=lambda: kept_words(out, branch) or sorted({t for row, _ in rows.rows for t in row.texts.values()}),
    )  # fmt: skip
    if stirred := options.pop("stirred", 0.0):
        stir(system.network, 0, stirred)
    sampler = BucketSampler(recipe, rows, system.patch, system.multiple, system.one_row)
    if held := options.pop("heldout", None):
        rejects = options.pop("held_rejects", None)
        options["heldout"] = HeldOut(recipe, held, system, Encoder(system, held), rejects)
    return train(recipe, sampler, system, Encoder(system, rows), out, **options)


def losses_of(recipe, system, work, network=None, factor=1.0, copies=None, rows=()):
    """What the recipe's objective makes of a step's batches; the gradient is left in the parameters."""
    alone = Parallel("single", 0, 1, torch.device("cpu"))
    objective = load_objective(recipe, system, rows, alone.device)
    model = TrainedModel(recipe, system, system.network if network is None else network, alone, copies or {})
    return forward_backward(objective, model, work, factor)


__all__ = ["TARGET", "MemoryRows", "edit_row", "losses_of", "pairs", "run", "tiny"]


def random_run(folder, seed=0):
    """A finished run whose weights are random, so that noise, words and source all show in the result."""
    run(tiny(steps=2), MemoryRows(pairs()), folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in load_file(file).items()}
        save_file(tensors, file)
    return folder
