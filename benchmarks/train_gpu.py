"""Training on an accelerator: speed beside a plain loop, bfloat16 against float32, where the time goes, what is learnt.

    python benchmarks/train_gpu.py [--only NAME ...] [--device cuda] [--size full] [--json FILE]
    python benchmarks/train_gpu.py --only learn --photos DIR [--minutes 8] [--out DIR]

`speed` trains a FireRed-style transformer of 1.7 B parameters (five layers of Qwen-Image's width) from stored features
at 512² and 1024² with one reference, beside a loop as the training scripts of diffusers have it: not compiled, every
text padded and masked. `options` takes the wins away one by one. `adapters` trains LoRA beside smaller weights.
`profile` says where the time goes in both loops. `references` trains FLUX.2 and Qwen-Image-2.1 of 1.6 and 1.3 B
parameters (`--model` one of them) on rows of two and of three references together, beside one row at a time, as loops
have it that share references over a batch.
`precision` compares one step of each architecture in bfloat16 under FSDP2 with float32. `learn` trains a small model
from scratch on edits synthesised from photographs, by the commands, and compares held-out images with copying.

Weights are random, but nowhere zero: a processor multiplies zeros faster. `--size small` is for a CPU, where the script
is only tried. All times are wall time. After `--minutes` no further part, and no further row of one, begins, so that
with the default all ends within ten; what was not measured is listed at the end. `learn` is a run of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stream import EDIT, Report

from edittools.nets import load_edit_model
from edittools.nets.base import EditModel, pad_states
from edittools.nets.tokens import patchify
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import Recipe
from edittools.train.features import FeatureStore, FeatureWriter, Keys, Stored, shows
from edittools.train.folder import open_run
from edittools.train.log import StepReport, peak_tflops
from edittools.train.loop import train
from edittools.train.parallel import Parallel, start
from edittools.train.rows import TrainRow
from edittools.weights.quiet import disable_progress_bars

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

CHANNELS = 16  # of Qwen-Image's latents
SEEN = 196  # tokens of one reference in the language model's states, at 384²


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    sides: tuple[int, ...]
    layers: int
    heads: int
    head_dim: int
    rope: tuple[int, int, int]
    states: int  # width of the language model's states
    rows: int
    warmup: int  # steps before the clock starts
    steps: int
    pairs_side: int  # of `precision`


SIZES = {
    "full": Size((512, 1024), 5, 24, 128, (16, 56, 56), 3584, 96, 10, 20, 256),
    "small": Size((64,), 2, 2, 16, (4, 6, 6), 32, 24, 2, 3, 32),
}


@dataclass
class Given:
    """What all parts share."""

    size: Size
    full: bool
    device: torch.device
    folder: Path
    report: Report
    arguments: argparse.Namespace
    tables: dict[str, str] = field(default_factory=dict)

    def bar(self, value: float) -> float | None:
        """Bars hold on a GPU, at full size."""
        return value if self.full and self.device.type == "cuda" else None

    def dtype(self) -> str:
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def batch_tokens(self, side: int) -> int:
        if not self.full:
            return 4 * 2 * (side // 16) ** 2
        memory = torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else 0
        return 16384 if memory > 100 << 30 else 8192


# ---------------------------------------------------------------- stored features


class StoredRows:
    """Rows of which only the features exist."""

    data_id = "features"

    def __init__(self, count: int, side: int, references: tuple[int, ...] = (1,)) -> None:
        texts = [{("instruction", "en"): f"edit {k}"} for k in range(count)]
        sources = [[(side, side)] * references[k % len(references)] for k in range(count)]
        self.rows = [TrainRow(f"{k:06d}", "edit", "edit", texts[k], sources[k], (side, side)) for k in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TrainRow:
        return self.rows[index]

    def content(self, row: int, which: int) -> str:
        return f"{row}/{which}"

    def place(self, row: int, which: int) -> str:
        return f"{row}/{which}"


@dataclass
class Data:
    """Stored features of one image size, and what a run of ours needs beside them."""

    recipe: Recipe
    edit_model: EditModel
    sampler: BucketSampler
    stored: Stored


def make_data(given: Given, side: int, **overrides: Any) -> Data:
    """A new network, and random features of the shapes that a real encoder's have, in a store on disk."""
    from tiny_architectures import save_firered

    weights = given.folder / "firered"
    if not weights.exists():
        save_firered(weights)
    size = given.size
    recipe = dataclasses.replace(
        load_recipe(
            "firered-small",
            {
                "resolution": [side, side],
                "ratios": ["1:1"],
                "batch_tokens": given.batch_tokens(side),
                "microbatches": 1,
                "caption_dropout": 0.0,
                "variants": 1,
                "steps": 1000,
                "ema": 0.0,
                "dtype": given.dtype(),
                "compile": given.full,
                "checkpoint_every": 10**6,
                "log_every": 10**6,
                "sample_every": 0,
                **overrides,
            },
        ),
        model={"weights": str(weights), "transformer": transformer_settings(size)}
        | ({"lora": {"rank": 16, "alpha": 16}} if "model.lora.rank" in overrides else {}),
    )
    edit_model = load_edit_model("firered", recipe.model, encoders=False, seed=0)
    fill_zeros(edit_model.network)
    rows = StoredRows(size.rows, side)
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple)  # type: ignore[arg-type]
    keys = Keys({"latents": "random", "conditions": "random"}, rows, {})  # type: ignore[arg-type]
    folder = given.folder / f"features-{side}"
    if not folder.exists():
        random, writer = torch.Generator().manual_seed(0), FeatureWriter(folder, torch.bfloat16)
        shape = (CHANNELS, side // 8, side // 8)
        for number, sample in enumerate(sampler.samples):
            for shown in shows(rows[sample.row], sample):
                key = keys.latents(sample.row, shown)
                writer.add(key, {"latents": torch.randn(shape, generator=random)})
            # 24 to 48 tokens of instruction; few lengths, so that each fills batches as in a large data set
            length = SEEN + 24 + 8 * (number % 4)
            states = torch.randn((length, size.states), generator=random)
            writer.add(keys.conditioning(sample), {"states": states})
        writer.flush()
    stored = Stored(FeatureStore(folder), keys)
    stored.check(sampler.samples)
    sampler.lengths = stored.lengths(sampler.samples)
    return Data(recipe, edit_model, sampler, stored)


def transformer_settings(size: Size) -> dict[str, Any]:
    return {
        "patch_size": 2, "in_channels": 4 * CHANNELS, "out_channels": CHANNELS, "num_layers": size.layers,
        "attention_head_dim": size.head_dim, "num_attention_heads": size.heads, "joint_attention_dim": size.states,
        "axes_dims_rope": list(size.rope),
    }  # fmt: skip


def fill_zeros(network: torch.nn.Module) -> None:
    """Random numbers where a new network has zeros, with which a first step would say nothing."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=random))


# ---------------------------------------------------------------- the two loops


class EnoughError(BaseException):
    """All steps that are measured are done; no error, after which a run would save what it has."""


@dataclass
class Speed:
    samples_per_s: float
    tflops: float
    wait_share: float
    memory: int  # bytes at most

    def mfu(self, device: torch.device) -> float | None:
        peak = peak_tflops(device)
        return self.tflops / peak if peak else None


def ours(given: Given, data: Data, profiler: Any = None) -> Speed:
    """The training loop itself, stopped after the measured steps."""
    size, marks = given.size, []
    per_step = 0.0

    def on_step(report: StepReport) -> None:
        nonlocal per_step
        seconds = report.step * rows_per_step(data) / report.samples_per_s  # since the loop began
        per_step = report.tflops * seconds / report.step
        marks.append((time.perf_counter(), report.wait_share * seconds))
        if profiler is not None and report.step == size.warmup:
            profiler.start()
        if report.step == size.warmup + (3 if profiler else size.steps):
            if profiler is not None:
                profiler.stop()
            raise EnoughError

    with fresh_memory(given.device), tempfile.TemporaryDirectory(dir=given.folder) as out:
        open_run(out + "/run", data.recipe)
        with contextlib.suppress(EnoughError):
            train(
                data.recipe, data.sampler, data.edit_model, data.stored, out + "/run",
                parallel=Parallel("single", 0, 1, given.device), loaders=4, on_step=on_step,
            )  # fmt: skip
        memory = peak_memory(given.device)
    (began, waited), (ended, waited_too) = marks[size.warmup - 1], marks[-1]
    steps = len(marks) - size.warmup
    seconds = ended - began
    return Speed(
        steps * rows_per_step(data) / seconds, steps * per_step / seconds, (waited_too - waited) / seconds, memory
    )


def rows_per_step(data: Data) -> int:
    return sum(map(len, next(data.sampler.steps(0))))


class FeatureSet(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.sampler.samples)

    def __getitem__(self, index: int) -> Any:
        return self.data.stored(self.data.sampler.samples[index])


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    """Texts are padded to the longest of the batch, with a mask where that is so."""
    padded = pad_states([row.conditioning["states"] for row in rows])
    return {
        "target": torch.stack([row.target for row in rows]),
        "reference": torch.stack([row.references[0] for row in rows]),
        **padded,
    }


def plain(given: Given, data: Data, profiler: Any = None) -> Speed:
    """A loop as the training scripts of diffusers have it, on the same features and with the same weights.

    accelerate, autocast, AdamW as it comes, one forward pass a step, the loss read in every step; no average of the
    weights, which ours leaves out here too.
    """
    from accelerate import Accelerator
    from diffusers import QwenImageTransformer2DModel

    size, batch = given.size, rows_per_step(data)
    with fresh_memory(given.device):
        accelerator = Accelerator(
            mixed_precision="bf16" if given.device.type == "cuda" else "no", cpu=given.device.type == "cpu"
        )
        model = QwenImageTransformer2DModel(**data.recipe.model["transformer"])
        model.set_attention_backend("native")  # what was chosen for a model before holds for all of a process
        model.load_state_dict(data.edit_model.network.transformer.state_dict())  # type: ignore[union-attr,operator]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        loader = torch.utils.data.DataLoader(
            FeatureSet(data), batch, shuffle=True, drop_last=True, collate_fn=collate,
            num_workers=2 if given.full else 0, timeout=60 if given.full else 0,
        )  # fmt: skip
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        marks, waited, step = [], 0.0, 0
        last = size.warmup + (3 if profiler else size.steps)
        while step < last:
            batches = iter(loader)
            while step < last:
                asked = time.perf_counter()
                found = next(batches, None)
                waited += time.perf_counter() - asked
                if found is None:
                    break
                with accelerator.accumulate(model):
                    x0, reference = found["target"].float(), found["reference"].float()
                    noise = torch.randn_like(x0)
                    t = torch.randn(len(x0), device=x0.device).sigmoid()
                    x_t = (1 - t[:, None, None, None]) * x0 + t[:, None, None, None] * noise
                    tokens = patchify(x_t, 2)
                    shape = (1, x0.shape[-2] // 2, x0.shape[-1] // 2)
                    output = model(
                        hidden_states=torch.cat([tokens, patchify(reference, 2)], 1),
                        encoder_hidden_states=found["states"].to(x0.dtype),
                        encoder_hidden_states_mask=found.get("mask"),
                        timestep=t,
                        img_shapes=[[shape, shape]] * len(x0),
                        return_dict=False,
                    )[0][:, : tokens.shape[1]]
                    loss = (output.float() - patchify(noise - x0, 2)).square().mean()
                    accelerator.backward(loss)
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                loss.detach().item()
                marks.append((time.perf_counter(), waited))
                step += 1
                if profiler is not None and step == size.warmup:
                    profiler.start()
        if profiler is not None:
            profiler.stop()
        memory = peak_memory(given.device)
        accelerator.free_memory()
    (began, waited_before), (ended, waited_after) = marks[size.warmup - 1], marks[-1]
    seconds, steps = ended - began, len(marks) - size.warmup
    height, width = data.sampler.samples[0].shapes[0]
    tokens = height * width // data.edit_model.patch**2
    assert data.sampler.lengths is not None
    flops = 3 * batch * data.edit_model.flops(2 * tokens, tokens, int(data.sampler.lengths.mean()))
    return Speed(
        steps * batch / seconds, steps * flops / seconds / 1e12, (waited_after - waited_before) / seconds, memory
    )


@contextlib.contextmanager
def fresh_memory(device: torch.device) -> Iterator[None]:
    import gc

    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield


def peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


# ---------------------------------------------------------------- the parts


def best_attention(given: Given) -> str:
    """What the recipes of published sizes have: cuDNN's where it works, else torch's own choice."""
    return "auto"


def tell(given: Given, name: str, speed: Speed) -> None:
    given.report.numbers[name] = dataclasses.asdict(speed) | {"mfu": speed.mfu(given.device)}
    mfu = speed.mfu(given.device)
    share = "" if mfu is None else f", MFU {mfu:.1%}"
    given.report.add(
        name, speed.samples_per_s, None, "rows/s",
        note=f"{speed.tflops:.3g} TFLOP/s{share}, data-wait {speed.wait_share:.2%}, {speed.memory / 2**30:.1f} GiB",
    )  # fmt: skip
    given.report.write(given.arguments.json)


def speed(given: Given) -> None:
    for side in given.size.sides:
        if given.report.late(f"speed, {side}²"):
            continue
        beside = found = None
        with given.report.attempt(f"plain loop, {side}²"):
            beside = plain(given, make_data(given, side, compile=False))
            tell(given, f"plain loop, {side}²", beside)
        with given.report.attempt(f"edit train, {side}²"):
            found = ours(given, make_data(given, side, attention=best_attention(given)))
            tell(given, f"edit train, {side}²", found)
        mfu = found.mfu(given.device) if found else None
        given.report.add(f"model FLOP utilisation, {side}²", mfu, given.bar(0.45), "", note="stretch 0.55")
        waited = found.wait_share if found else None
        given.report.add(f"data-wait, {side}²", waited, given.bar(0.02), "", least=False)
        ratio = found.samples_per_s / beside.samples_per_s if found and beside else None
        given.report.add(f"samples/s of the plain loop's, {side}²", ratio, given.bar(1.5), "×")


def options(given: Given) -> None:
    """Each win taken away by itself, and what costs time to save memory."""
    side, best = given.size.sides[-1], best_attention(given)
    tried: dict[str, dict[str, Any]] = {
        "all of it": {},
        "not compiled": {"compile": False},
        "torch's own choice of attention": {"attention": "native"},
        "texts of a batch as they come, with masks": {"lengths": False},
        "selective checkpointing": {"checkpointing": "selective"},
        "full checkpointing": {"checkpointing": "full"},
    }
    for name, changes in tried.items():
        if given.report.late(f"{name}, {side}²"):
            continue
        with given.report.attempt(f"{name}, {side}²"):
            lengths = changes.pop("lengths", True)
            data = make_data(given, side, **{"attention": best, **changes})
            if not lengths:
                data.sampler.lengths = None
            tell(given, f"{name}, {side}²", ours(given, data))


def adapters(given: Given) -> None:
    """LoRA beside weights as they are stored, in few bits, and with blocks that wait in the main memory."""
    side = given.size.sides[-1]
    tried: dict[str, dict[str, Any]] = {
        "as stored": {}, "int8": {"quantize": "int8"}, "fp8": {"quantize": "fp8"}, "nf4": {"quantize": "nf4"},
        "a block waits": {"block_swap": 1}, "int8, a block waits": {"quantize": "int8", "block_swap": 1},
    }  # fmt: skip
    for name, changes in tried.items():
        what = f"adapters, weights {name}, {side}²"
        if given.report.late(what):
            continue
        with given.report.attempt(what):
            settings = {"attention": best_attention(given), "checkpointing": "full", "model.lora.rank": 16, **changes}
            data = make_data(given, side, **settings)
            for parameter in data.edit_model.network.parameters():
                if not parameter.requires_grad:  # as they are published
                    parameter.data = parameter.data.to(getattr(torch, given.dtype()))
            tell(given, what, ours(given, data))


def profile(given: Given) -> None:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if given.device.type == "cuda" else [])
    key = "self_cuda_time_total" if given.device.type == "cuda" else "self_cpu_time_total"
    best = {"attention": best_attention(given)}
    for name, loop, changes in (("plain loop", plain, {"compile": False}), ("edit train", ours, best)):
        if given.report.late(f"profile of {name}"):
            continue
        with given.report.attempt(f"profile of {name}"):
            found = profile(activities=activities)
            loop(given, make_data(given, given.size.sides[-1], **changes), found)
            table = found.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=60)
            given.tables[name] = table
            total = sum(getattr(e, key.replace("cuda", "device")) for e in found.key_averages()) or 1
            top = sorted(found.key_averages(), key=lambda e: -getattr(e, key.replace("cuda", "device")))[:8]
            print(f"\n{name}, three steps: share of the time on {given.device.type}")
            for event in top:
                print(
                    f"  {getattr(event, key.replace('cuda', 'device')) / total:6.1%}  {event.count:>6} x "
                    f"{event.key[:90]}"
                )


WIDE: dict[str, dict[str, Any]] = {  # the published widths, fewer layers
    "flux2": {
        "in_channels": 128, "num_layers": 2, "num_single_layers": 8, "num_attention_heads": 24,
        "joint_attention_dim": 7680, "guidance_embeds": False,
    },
    "qwen21": {"num_layers": 6},
}  # fmt: skip
NARROW: dict[str, dict[str, Any]] = {
    "flux2": {
        "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16,
        "joint_attention_dim": 24, "axes_dims_rope": [4, 4, 4, 4], "guidance_embeds": False,
    },
    "qwen21": {
        "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "context_in_dim": 16, "axes_dims_rope": [4, 6, 6],
    },
}  # fmt: skip


def several_references(given: Given, name: str, side: int, batch_tokens: int) -> Data:
    """A new network, and random features of rows of two and of three references in a store on disk."""
    import tiny_architectures

    weights = given.folder / name
    if not weights.exists():
        getattr(tiny_architectures, f"save_{name}")(weights)
    network = (WIDE if given.full else NARROW)[name]
    recipe = dataclasses.replace(
        load_recipe(
            name,
            {
                "resolution": [side, side], "ratios": ["1:1"], "batch_tokens": batch_tokens, "microbatches": 1,
                "caption_dropout": 0.0, "drop_references": 0.0, "variants": 1, "steps": 1000, "dtype": given.dtype(),
                "compile": given.full, "checkpoint_every": 10**6, "log_every": 10**6,
                "attention": best_attention(given),
            },
        ),
        model={"weights": str(weights), "transformer": network},
    )  # fmt: skip
    edit_model = load_edit_model(name, recipe.model, encoders=False, seed=0)
    fill_zeros(edit_model.network)
    rows: Any = StoredRows(given.size.rows, side, (2, 3))
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple)
    keys = Keys({"latents": "random", "conditions": "random"}, rows, {})
    folder = given.folder / f"features-{name}-{side}"
    if not folder.exists():
        random, writer = torch.Generator().manual_seed(0), FeatureWriter(folder, torch.bfloat16)
        for sample in sampler.samples:
            for shown in shows(rows[sample.row], sample):
                made = torch.randn(edit_model.latent_shape(side, side), generator=random)
                writer.add(keys.latents(sample.row, shown), {"latents": made})
            said = edit_model.example(len(sample.references))["states"]
            found = {"states": torch.randn(said.shape, generator=random)}
            if name == "qwen21":  # as its template has it
                found["places"] = torch.tensor([6 + 6 * k for k in range(len(sample.references))] + [len(said)])
            writer.add(keys.conditioning(sample), found)
        writer.flush()
    stored = Stored(FeatureStore(folder), keys)
    stored.check(sampler.samples)
    return Data(recipe, edit_model, sampler, stored)


def references(given: Given) -> None:
    side = given.size.sides[0]
    for name in [given.arguments.model] if given.arguments.model else WIDE:
        row = 4 * (side // 16) ** 2
        together = alone = None
        for what, tokens in (("one row at a time", row), ("rows together", max(4 * row, given.batch_tokens(side)))):
            if given.report.late(f"{name}, {what}"):
                continue
            with given.report.attempt(f"{name}, 2 and 3 references, {what}, {side}²"):
                found = ours(given, several_references(given, name, side, tokens))
                tell(given, f"{name}, 2 and 3 references, {what}, {side}²", found)
                together, alone = found, together
        ratio = together.samples_per_s / alone.samples_per_s if together and alone else None
        given.report.add(f"{name}: rows/s together of one at a time", ratio, None, "×")


def precision(given: Given) -> None:
    """Loss and gradient norm of a first step: bfloat16 under FSDP2 against float32 on one device."""
    from tiny_architectures import WIDTH, save_e1, save_firered, save_step1x
    from training import MemoryRows, pairs

    from edittools.train.features import Encoder

    size = given.size
    # five layers of one system, two double and four single blocks of the others: 1.7 B and 1.3 B parameters
    width = min(512, size.heads * size.head_dim)  # of the connectors
    flux = {
        "in_channels": 16, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": size.head_dim,
        "num_attention_heads": size.heads, "joint_attention_dim": width, "pooled_projection_dim": 64,
        "axes_dims_rope": list(size.rope), "guidance_embeds": False,
    }  # fmt: skip
    folder = given.folder / "precision"
    _, dropped = save_step1x(folder / "step1x", "1.1")
    models: dict[str, dict[str, Any]] = {
        "firered": {
            "weights": str(save_firered(folder / "firered")),
            "transformer": transformer_settings(size) | {
                "in_channels": 16, "out_channels": 4, "joint_attention_dim": WIDTH,
            },
        },
        "step1x": {
            "weights": str(folder / "step1x"), "dropped": dropped, "transformer": flux,
            "connector": {"states_width": WIDTH, "width": width, "heads": 8, "depth": 2, "pooled_width": 64},
        },
        "imgedit_e1": {
            "weights": str(save_e1(folder / "e1")), "transformer": flux,
            "projectors": {
                "states_width": WIDTH, "features_width": 16, "hidden": 64, "width": width, "pooled_width": 64,
            },
        },
    }  # fmt: skip
    rows = MemoryRows(pairs(4, side=size.pairs_side))
    with one_process_group():
        sharded = start("fsdp", given.device.type)
        try:
            for name, model in models.items():
                if given.report.late(f"{name}: bfloat16, FSDP2"):
                    continue
                with given.report.attempt(f"{name}: bfloat16, FSDP2"):
                    results = {}
                    for dtype, parallel in (
                        ("float32", Parallel("single", 0, 1, given.device)),
                        ("bfloat16", sharded),
                    ):
                        recipe = dataclasses.replace(
                            load_recipe(
                                "firered-small",
                                {
                                    "system": name,
                                    "resolution": [size.pairs_side] * 2,
                                    "ratios": ["1:1"],
                                    "caption_dropout": 0.0,
                                    "batch_tokens": 8 * (size.pairs_side // 16) ** 2,
                                    "microbatches": 1,
                                    "variants": 1,
                                    "steps": 9,
                                    "dtype": dtype,
                                    "compile": False,
                                    "ema": 0.0,
                                    "sample_every": 0,
                                },
                            ),
                            model=model,
                        )
                        with fresh_memory(given.device), tempfile.TemporaryDirectory(dir=given.folder) as out:
                            edit_model = load_edit_model(name, model, seed=0, device=str(given.device), dtype="float32")
                            fill_zeros(edit_model.network)
                            parameters = sum(p.numel() for p in edit_model.network.parameters())
                            sampler = BucketSampler(
                                recipe, rows, edit_model.patch, edit_model.multiple, edit_model.one_row
                            )
                            open_run(out + "/run", recipe)
                            seen: list[StepReport] = []

                            def on_step(report: StepReport, seen: list[StepReport] = seen) -> None:
                                seen.append(report)
                                raise EnoughError

                            with contextlib.suppress(EnoughError):
                                train(
                                    recipe,
                                    sampler,
                                    edit_model,
                                    Encoder(edit_model, rows),
                                    out + "/run",
                                    parallel=parallel,
                                    on_step=on_step,
                                )
                            results[dtype] = seen[0]
                            del edit_model
                    exact, rounded = results["float32"], results["bfloat16"]
                    given.report.numbers[f"precision {name}"] = {
                        "parameters": parameters,
                        **{d: {"loss": r.loss, "grad_norm": r.grad_norm} for d, r in results.items()},
                    }
                    note = f"{parameters / 1e9:.2g} B parameters, loss {exact.loss:.4f}, norm {exact.grad_norm:.4f}"
                    loss = abs(rounded.loss / exact.loss - 1)
                    norm = abs(rounded.grad_norm / exact.grad_norm - 1)
                    given.report.add(f"{name}: loss in bfloat16, FSDP2", loss, 0.01, "off", least=False, note=note)
                    given.report.add(f"{name}: gradient norm, likewise", norm, 0.03, "off", least=False)
                    given.report.write(given.arguments.json)
        finally:
            sharded.close()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


@contextlib.contextmanager
def one_process_group() -> Iterator[None]:
    """What a launcher would set for one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port)}  # fmt: skip
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name)


# ---------------------------------------------------------------- learning

KINDS = "gray,invert,sepia,warm,cool,tint,brighten,darken,saturate,contrast,blur,flip,add,remove"
HELD_OUT = 8  # every eighth photograph


def learn(given: Given) -> None:
    """From photographs to a report, by the commands; figures beside copying the source."""
    photos = given.arguments.photos
    if photos is None:
        given.report.owe("learn: held-out PSNR over copying", "--photos is not given")
        return
    work = given.arguments.out or given.folder / "learn"
    work.mkdir(parents=True, exist_ok=True)
    side = 128 if given.full else 32
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for k, path in enumerate(files):
        place = work / ("heldout" if k % HELD_OUT == 0 else "crawl") / f"{k:05d}{path.suffix.lower()}"
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            place.symlink_to(path.resolve())
    min_side = str(side)

    def edit(*words: str) -> None:
        subprocess.run([EDIT, *words], cwd=work, check=True, stdout=subprocess.DEVNULL)

    edit("shard", "crawl/", "-o", "raw/", "--max-errors", "10%")
    edit("dedup", "raw/", "-o", "unique/", "--max-errors", "10%")
    edit("filter", "unique/", "--min-side", min_side, "-o", "clean/", "--max-errors", "50%")
    per_row = str(given.arguments.per_row)
    edit("synth", "clean/", "--crop", str(side), "--templates", KINDS, "--per-row", per_row, "-o", "edits/")
    edit("caption", "edits/", "-o", "train/")
    edit("shard", "heldout/", "-o", "held/", "--max-errors", "10%")
    edit("synth", "held/", "--crop", str(side), "--templates", KINDS, "--per-row", "14", "--seed", "1", "-o", "truth/")
    network = {} if not given.full else {
        "model.layers": 8, "model.heads": 8, "model.head_dim": 64, "model.rope": [8, 28, 28], "model.patch": 8,
        "batch_tokens": 512 * 64, "microbatches": 1, "dtype": given.dtype(), "compile": True, "lr": 1e-3,
    }  # fmt: skip
    settings: dict[str, Any] = {"resolution": [side, side], "log_every": 20, "checkpoint_every": 10**6, **network}
    chosen = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    place = ["--device", given.device.type, "--quiet"]
    if given.arguments.learn_steps:
        steps = given.arguments.learn_steps
    else:  # how many steps fit into the time: measured, then trained for
        edit("train", "train/", "--recipe", "demo", *chosen, "--set", "steps=60", "-o", "tried/", *place)
        lines = [json.loads(line) for line in (work / "tried" / "log.jsonl").open()]
        recipe = json.loads((work / "tried" / "config.json").read_text())["recipe"]
        rows = recipe["microbatches"] * (recipe["batch_tokens"] // (2 * (side // recipe["model"]["patch"]) ** 2))
        steps = int(0.9 * 60 * 0.8 * given.arguments.minutes * lines[-1]["samples_per_s"] / rows)
    began = time.perf_counter()
    edit("train", "train/", "--recipe", "demo", *chosen, "--set", f"steps={steps}", "-o", "run/", *place)
    minutes = (time.perf_counter() - began) / 60
    sample = ["--model", "run/", "--device", given.device.type]
    edit("sample", "truth/", *sample, "-o", "sampled/")
    edit("sample", "sampled/", *sample, "--shuffle", "--column", "result_shuffled", "-o", "shuffled/")
    edit("score", "shuffled/", "-o", "judged/")
    shown = ("--run", "run/", "--data", "train/", "-o", "report.html", "--overwrite")
    edit("eval", "report", "heldout", "judged/", *shown)
    found = json.loads((work / "report.json").read_text())
    given.report.numbers["learn"] = found
    for kind, scores in found["kinds"].items():
        print(f"  {kind:<14} {scores['edit']:6.2f} dB, copying {scores['copy']:6.2f} dB")
    mean = found["mean"]
    note = f"{steps} steps in {minutes:.1f} min at {side}²; images: {work / 'report.html'}"
    given.report.add(
        "learn: held-out PSNR over copying", mean["edit"] - mean["copy"], given.bar(6), "dB", note=note
    )  # fmt: skip
    shutil.rmtree(work / "tried", ignore_errors=True)


def main() -> None:
    parts: dict[str, Callable[[Given], None]] = {
        "speed": speed, "options": options, "adapters": adapters, "profile": profile, "references": references,
        "precision": precision, "learn": learn,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, small elsewhere")
    parser.add_argument("--only", nargs="*", choices=parts, help="parts; default: all but `learn`")
    parser.add_argument("--model", choices=WIDE, help="of `references`; default: both")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    parser.add_argument("--photos", type=Path, help="folder of photographs for `learn`")
    parser.add_argument("--out", type=Path, help="where `learn` leaves its run and its report")
    parser.add_argument("--minutes", type=float, default=8,
                        help="after which nothing further begins; `learn` trains 0.8 of them (default 8)")  # fmt: skip
    parser.add_argument("--learn-steps", type=int, help="of `learn`, instead of minutes")
    parser.add_argument("--per-row", type=int, default=28, help="edits of each photograph in `learn` (default 28)")
    given = parser.parse_args()
    size = given.size or ("full" if given.device.startswith("cuda") else "small")
    torch.manual_seed(0)
    np.random.seed(0)
    disable_progress_bars("transformers", "diffusers")
    report = Report(deadline=time.monotonic() + 60 * given.minutes)
    report.numbers["device"] = torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu"
    report.numbers["torch"] = torch.__version__
    print(f"{report.numbers['device']}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="edittools-benchmark-") as folder:
        shared = Given(SIZES[size], size == "full", torch.device(given.device), Path(folder), report, given)
        for name in given.only or [name for name in parts if name != "learn"]:
            if report.late(name):
                continue
            with report.attempt(name):  # one that fails ends no other
                parts[name](shared)
            report.numbers["profiles"] = shared.tables
            report.write(given.json)
    sys.exit(report.end(given.json))


if __name__ == "__main__":
    main()
