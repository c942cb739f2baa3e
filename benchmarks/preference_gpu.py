"""Reinforcement on an accelerator: samples a second and MFU of rollout and training, memory, of all parameters.

    python benchmarks/preference_gpu.py [--device cuda] [--size full] [--iterations N] [--json FILE]

The recipe `firered-nft` in small: the transformer of train_gpu.py (1.7 B parameters) with random weights, stored
features of 512² and 1024² edits with one reference, 8 images of each prompt in 10 steps, two times each, an old policy
and a KL term, so that three sets of weights are held. Rewards are random numbers that cost nothing, and decoding is
left out: images are three channels of the latents. The first iteration, which compiles, is left out. `--size small` is
for a CPU, where the script is only tried.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from stream import Report
from train_gpu import SIZES, Given, fresh_memory, make_data, peak_memory, rows_per_step

from edittools.metrics.rewards import Reward
from edittools.stream.row_images import image_value
from edittools.stream.rows import column_values
from edittools.train import rollout
from edittools.train.config import load_recipe
from edittools.train.folder import open_run
from edittools.train.log import StepReport, peak_tflops
from edittools.train.loop import train
from edittools.train.parallel import Parallel

GROUP, STEPS, TIMES = 8, 10, 2


class Dice:
    """Rewards by chance."""

    rewards = (Reward("chance"),)

    def scores(self, cases: pa.RecordBatch) -> dict[str, dict[str, float | None]]:
        return {name: {"chance": random.Random(name).random()} for name in column_values(cases, "id")}


@contextlib.contextmanager
def dice(*_: object) -> Iterator[Dice]:
    yield Dice()


def measure(given: Given, side: int, iterations: int) -> None:
    """A few iterations, one update each."""
    settings = load_recipe("firered-nft").of_objective() | {
        "images": "model", "by": "chance", "group": GROUP, "sampling_steps": STEPS, "times": TIMES, "updates": 1,
        "kl": 1e-4, "evaluate_every": 0, "keep_rollouts": 1,
    }  # fmt: skip
    data = make_data(given, side)
    recipe = dataclasses.replace(
        data.recipe, objective="nft", objective_settings=settings, region_weight=False, steps=iterations,
        optimizer="adamw", checkpointing="full", loss_spike_factor=0.0, log_every=1,
    )  # fmt: skip
    data.sampler.recipe = data.sampler.samples.recipe = recipe
    edit_model: Any = data.edit_model
    edit_model.images = lambda latents: latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
    shown = image_value(np.zeros((side, side, 3), np.uint8))
    data.sampler.rows.reference = lambda index, which: shown  # type: ignore[method-assign]
    marks: list[float] = []

    def on_step(report: StepReport) -> None:
        marks.append(time.perf_counter())

    opened, rollout.open_rewards = rollout.open_rewards, dice  # type: ignore[assignment]
    try:
        with fresh_memory(given.device), tempfile.TemporaryDirectory(dir=given.folder) as out:
            open_run(out + "/run", recipe)
            train(recipe, data.sampler, edit_model, data.stored, out + "/run",
                  parallel=Parallel("single", 0, 1, given.device), loaders=4, on_step=on_step)  # fmt: skip
            memory = peak_memory(given.device)
            lines = [json.loads(line) for line in Path(out, "run/rollouts.jsonl").read_text().splitlines()][1:]
    finally:
        rollout.open_rewards = opened
    whole = statistics.fmean(np.diff(marks))
    sampling = statistics.fmean(line["seconds"]["sampling"] for line in lines)
    images, tokens = rows_per_step(data) * GROUP, (side // edit_model.patch) ** 2
    forward = edit_model.flops(2 * tokens, tokens, 228) / 1e12
    peak = peak_tflops(given.device)
    # old, start and the network's own with its backward pass
    spent = {
        "rollout": (images * STEPS * forward, sampling),
        "training": (images * TIMES * 5 * forward, whole - sampling),
    }
    numbers: dict[str, Any] = {"images": images, "seconds": whole, "memory": memory}
    for name, (tflop, seconds) in spent.items():
        numbers[name] = {"seconds": seconds, "tflops": tflop / seconds, "mfu": tflop / seconds / peak if peak else None}
        given.report.add(f"{side}²: {name}: images a second", images / seconds, None, "/s")
        if peak:
            given.report.add(f"{side}²: {name}: MFU", 100 * tflop / seconds / peak, None, "%")
    given.report.add(f"{side}²: images a second, all in all", images / whole, None, "/s")
    given.report.add(f"{side}²: memory", memory / 1e9, None, "GB")
    given.report.numbers[f"{side}²"] = numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, default="full" if torch.cuda.is_available() else "small")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        size = SIZES[told.size]
        given = Given(size, told.size == "full", torch.device(told.device), Path(folder), report, told)
        for side in size.sides:
            with report.attempt(f"{side}²"):
                measure(given, side, told.iterations)
            report.write(told.json)
    sys.exit(report.end(told.json))


if __name__ == "__main__":
    main()
