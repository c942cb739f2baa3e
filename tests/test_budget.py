"""What `edit train -n --budget` tells, against what is measured and what is counted by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Runner
from tiny_systems import save_firered, save_kontext
from training import tiny

from edittools.models.systems import load_system
from edittools.train import load_recipe
from edittools.train.budget import measure

# Two steps of a network; prints the most memory that the process has had, less what it had before.
WORKER = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
from training import tiny
from edittools.models.systems import load_system
from edittools.train import objective
from edittools.train.activations import checkpoint_activations
from edittools.train.data import Batch, Step
from edittools.train.loop import forward_backward
from edittools.train.optimizers import Average, Optimizers
from edittools.train.parallel import Parallel
from edittools.train.rows import Row

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])

def steps(settings, rows, side, count):
    recipe = tiny(**settings)
    system = load_system(recipe.system, recipe.model, texts=lambda: ["make it red"])
    checkpoint_activations(system, recipe.checkpointing)
    parallel = Parallel("single", 0, 1, torch.device("cpu"))
    network = parallel.wrap(system.network, system.blocks(), torch.float32)
    trained = {{n: p for n, p in network.named_parameters() if p.requires_grad}}
    inner = {{id(p) for block in system.blocks() for p in block.parameters()}}
    optimizers, average = Optimizers(recipe, trained, inner), Average(trained, recipe.ema)
    row = Row("a", "tone", "t", {{("instruction", "en"): "x"}}, [(side, side)], (side, side))
    picture = torch.rand(rows, 3, side, side)
    for step in range(count):
        batch = Batch([row] * rows, picture, [picture], {{"words": torch.ones(rows, 8, dtype=torch.long)}},
                      picture.clone(), torch.rand(rows), [], 8, 0)
        forward_backward(recipe, system, network, Step(step, rows, [batch]), 1.0, None, parallel, torch.float32)
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizers.step(1.0)
        average.update(step + 1)

steps({{}}, 2, 16, 2)  # what is loaded once
for settings, rows, side in json.loads(sys.argv[1]):
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    steps(settings, rows, side, 2)
    print(status("VmHWM") - before)
"""

# what is freed is given back at once, so that the peak is that of what is held
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
WIDE = {"model_heads": 4, "model_head_dim": 48, "model_rope": [8, 20, 20], "ratios": ["1:1"], "ema": 0.999}
SIZES = [
    ({**WIDE, "model_layers": 4, "optimizer": "adamw", "sides": [96, 96], "batch_tokens": 8 * 288}, 8, 96),
    ({**WIDE, "model_layers": 12, "optimizer": "muon", "sides": [32, 32], "batch_tokens": 4 * 32}, 4, 32),
    ({**WIDE, "model_layers": 8, "optimizer": "adamw", "sides": [96, 96], "batch_tokens": 16 * 288,
      "checkpointing": "full"}, 16, 96),
]  # fmt: skip


def test_memory_is_what_a_process_takes(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent)))
    # a process of its own: how memory is given back is decided when one begins
    child = subprocess.run([sys.executable, script, json.dumps(SIZES)], capture_output=True, text=True, timeout=300,
                           env={**os.environ, **GIVEN_BACK})  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    measured = [int(line) for line in child.stdout.split()]
    assert len(measured) == len(SIZES)
    for (settings, rows, _), taken in zip(SIZES, measured):
        budget = measure(tiny(**settings), texts=["make it red"])
        assert budget.rows == rows
        assert budget.memory.total == pytest.approx(taken, rel=0.10)


def lora(weights: Path, **settings):
    return load_recipe("lora", {
        "model.weights": str(weights), "model.lora.rank": 2, "sides": [64, 64], "ratios": ["1:1"], "batch_tokens": 32,
        "checkpointing": "full", **settings,
    })  # fmt: skip


def test_weights_that_do_not_train_are_counted_as_they_are_kept(tmp_path: Path):
    weights = save_kontext(tmp_path / "m")
    system = load_system("kontext", {"weights": str(weights), "lora": {"rank": 2}}, encoders=False)
    numbers = {True: 0, False: 0}
    linear = 0
    for block in (system.network, *system.blocks()):
        for p in block.parameters():
            if block is system.network:
                numbers[p.requires_grad] += p.numel()
            elif p.ndim == 2 and not p.requires_grad:
                linear += p.numel()
    plain = measure(lora(weights)).memory
    assert plain.frozen == 4 * numbers[False]  # the checkpoint is in float32
    assert plain.trained == plain.gradients == 4 * numbers[True] and plain.optimizer == 8 * numbers[True]
    small = measure(lora(weights, quantize="int8")).memory
    assert plain.frozen - 3 * linear <= small.frozen < 0.8 * plain.frozen
    swapped = measure(lora(weights, block_swap=2)).memory
    assert swapped.frozen < 0.5 * plain.frozen and swapped.activations > plain.activations


def test_sharded_weights_are_divided_and_one_block_is_whole():
    recipe = tiny(optimizer="adamw", ema=0.999, model_layers=4)
    alone = measure(recipe, texts=["x"]).memory
    shared = measure(recipe, texts=["x"], mode="fsdp", world=8, shards=8).memory
    for name in ("frozen", "trained", "gradients", "optimizer", "average"):
        assert getattr(shared, name) == pytest.approx(getattr(alone, name) / 8)
    assert 0 < shared.gathered < alone.trained * 4 and alone.gathered == 0


def test_the_command_tells_it(tmp_path: Path, edit: Runner):
    weights = save_firered(tmp_path / "m")
    words = ["--recipe", "lora", "--set", f"model.weights={weights}", "--set", "sides=[64,64]", "-n", "--budget"]
    said = edit("train", *words, "--processes", 8).stdout.decode()
    for word in ("memory per device", "step: ", "disk: checkpoints", "stored features", "24 GB", "block_swap"):
        assert word in said
    wrong = edit("train", *[word for word in words if word != "-n"], check=2)
    assert "-n" in wrong.stderr
