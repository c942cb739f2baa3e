"""The log of a run: a line every few steps, with the loss by noise level and by task, and where the time goes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.errors import UsageError, missing_extra
from edittools.nets.base import EditModel
from edittools.stream import files
from edittools.train.config import Recipe
from edittools.train.data import Step
from edittools.train.objectives import Losses
from edittools.train.parallel import Parallel
from edittools.train.rejects import HELD_OUT, Rejects
from edittools.weights.lookup import read_config

BINS = 4  # the loss is split by noise level into this many equal parts of [0, 1]
SAID = 5  # rejected rows at a time
TRACKERS = ("tensorboard", "wandb")
BESIDE = ("rollouts", "rewards")  # logs that an objective may have beside; a line is of what comes after its step

# Dense bfloat16 TFLOP/s of the tensor cores, from the makers' data sheets.
PEAKS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "H800": 989.0, "B200": 2250.0, "A100": 312.0, "A800": 312.0,
         "L40S": 362.0, "RTX 4090": 165.2, "RTX 5090": 209.5}  # fmt: skip


@dataclass(frozen=True)
class StepReport:
    """Report of one step, for `on_step`."""

    step: int  # steps finished, from 1
    steps: int  # steps of the whole run
    loss: float
    grad_norm: float  # before clipping
    rate: float  # the learning rates' factor
    samples_per_s: float  # of all processes, since they began or resumed
    wait_share: float  # share of that time that this process spent waiting for data
    tflops: float  # per second and device, of the network's forward and backward passes; nothing computed twice
    mfu: float | None  # share of the device's peak; None where that is not known


def say(text: str) -> None:
    print(f"train: {text}", file=sys.stderr, flush=True)


def peak_tflops(device: torch.device) -> float | None:
    """Peak TFLOP/s of one device in bfloat16; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)


class Log:
    """log.jsonl: means since the previous line.

    Lines after the step that a run resumes from are dropped: those steps are done again.
    """

    def __init__(
        self, out: Path, resumed_from: int, recipe: Recipe, parallel: Parallel, trackers: list[str],
        rejects: Rejects | None = None, held: Rejects | None = None,
        heed: Callable[[Mapping[str, Any]], str] = lambda line: "",
    ) -> None:  # fmt: skip
        """rejects, held: of the rows that are trained on, and of those held out. heed: see Objective.heed()."""
        self.path, self.recipe, self.parallel = out / "log.jsonl", recipe, parallel
        self.heldout_path = out / "heldout.jsonl"
        self.first, self.began, self.heed = resumed_from, time.perf_counter(), heed
        self.rows = self.new_rows = 0
        self.flops = 0.0  # of this process
        self.peak = peak_tflops(parallel.device)
        self._flops_of: dict[tuple[tuple[int, ...], int], int] = {}
        self._reports: list[StepReport] = []
        self._losses: list[tuple[str, float, float]] = []  # task, t, loss
        self._numbers: dict[str, tuple[float, int]] = {}  # of the objective: sums over rows, and how many rows
        self._tokens = self._padding = self._image_tokens = 0
        self._written = (self.began, 0.0, 0)  # when the last line was, and the FLOP and the rows until then
        self._sinks: list[Any] = []
        self.rejects, self.rejects_path = Rejects() if rejects is None else rejects, out / "rejects.jsonl"
        self.held = Rejects() if held is None else held
        self.rejected: set[tuple[str, str]] = set()  # in that file, by kind and id
        if not parallel.is_main:
            return
        cut(self.heldout_path, resumed_from or -1)  # what is before the first step is measured anew
        for name in BESIDE:
            cut(out / f"{name}.jsonl", resumed_from - 1)
        if kept := cut(self.path, resumed_from):
            self.rows = kept[-1]["samples"]
            for line in kept:
                heed(line)
        self._written = (self.began, 0.0, self.rows)
        self._sinks = [open_tracker(name, out, recipe, resumed_from) for name in trackers]
        self.rejected = {(line.get("of", ""), line["id"]) for line in cut(self.rejects_path)}

    def add(
        self, step: int, loss: float, norm: float, rate: float, work: Step, losses: list[Losses], edit_model: EditModel,
        waited: float,
    ) -> StepReport:  # fmt: skip
        """Take in a finished step."""
        self.rows += work.rows
        self.new_rows += work.rows
        for batch, values in zip(work.batches, losses):
            count = len(batch.rows)
            text = (batch.text_tokens - batch.padding) // count  # padding is no work done
            for sample in batch.samples:
                shapes = sample.shapes if edit_model.sees_references else sample.shapes[:1]
                key = tuple(h * w // edit_model.patch**2 for h, w in shapes), text
                if key not in self._flops_of:
                    self._flops_of[key] = edit_model.row_flops(*key)
                # the backward pass costs twice the forward pass
                self.flops += 3 * (2 if self.recipe.pairs else 1) * self._flops_of[key]
                self._image_tokens += sum(key[0])
            self._tokens += batch.text_tokens
            self._padding += batch.padding
            self._losses += [(row.task, float(t), float(v)) for row, t, v in zip(batch.rows, batch.t, values.rows)]
            for name, each in values.numbers.items():
                total, number = self._numbers.get(name, (0.0, 0))
                self._numbers[name] = total + float(each.sum()), number + len(each)
        seconds = time.perf_counter() - self.began
        tflops = self.flops / seconds / 1e12
        report = StepReport(
            step,
            self.recipe.steps,
            loss,
            norm,
            rate,
            self.new_rows / seconds,
            waited / seconds,
            tflops,
            tflops / self.peak if self.peak else None,
        )
        self._reports.append(report)
        return report

    def reject(self) -> None:
        """Write down the rows that turned out to be of no use, and let every process know; every one calls it."""
        every = self.parallel.gather((self.rejects.take(), self.held.take()))
        new: dict[tuple[str, str], str] = {}
        for kind, rejects, parts in zip(("", HELD_OUT), (self.rejects, self.held), zip(*every)):
            found = dict(item for part in parts for item in part)
            rejects.learn(found)
            new |= {(kind, name): reason for name, reason in found.items() if (kind, name) not in self.rejected}
        if not self.parallel.is_main or not new:
            return
        lines = [
            {"id": identity, "reason": reason, **({"of": kind} if kind else {})}
            for (kind, identity), reason in sorted(new.items())
        ]
        append(self.rejects_path, *lines)
        for (kind, identity), reason in sorted(new.items())[:SAID]:
            say(f"{kind} row {identity} cannot be used: {reason}".lstrip())
        if len(new) > SAID:
            say(f"and {len(new) - SAID} rows more, see {self.rejects_path}")
        self.rejected |= new.keys()

    @property
    def untold(self) -> bool:
        """Are there steps since the last line?"""
        return bool(self._reports)

    def write(self, checkpoint_s: float | None = None) -> None:
        """A line about the steps since the last one; every process calls it.

        checkpoint_s: seconds that the last checkpoint took, from the first copy to the last flush.
        """
        self.reject()
        if not self.untold:
            return
        gathered = [item for part in self.parallel.gather(self._losses) for item in part]
        counts = self.parallel.sum(torch.tensor([self._tokens, self._padding, self._image_tokens], dtype=torch.float64))
        numbers = self.parallel.gather(self._numbers)
        last, number = self._reports[-1], len(self._reports)
        if self.parallel.is_main:
            now = time.perf_counter()
            seconds, flops, rows = now - self._written[0], self.flops - self._written[1], self.rows - self._written[2]
            by_task: dict[str, list[float]] = defaultdict(list)
            bins: list[list[float]] = [[] for _ in range(BINS)]
            for task, t, value in gathered:
                by_task[task].append(value)
                bins[min(int(t * BINS), BINS - 1)].append(value)
            line = {
                "step": last.step,
                "samples": self.rows,
                "loss": sum(report.loss for report in self._reports) / number,
                "loss_by_noise": [sum(values) / len(values) if values else None for values in bins],
                "loss_by_task": {task: sum(values) / len(values) for task, values in sorted(by_task.items())},
                "grad_norm": sum(report.grad_norm for report in self._reports) / number,
                "rate": last.rate,
                "samples_per_s": round(rows / seconds, 3),
                "tokens_per_s": round(counts[[0, 2]].sum().item() / seconds, 1),
                "text_padding": round(counts[1].item() / max(1.0, counts[0].item()), 4),
                "tflops": round(flops / seconds / 1e12, 4),
                "mfu": round(flops / seconds / 1e12 / self.peak, 4) if self.peak else None,
                "wait_share": round(last.wait_share, 4),
                "checkpoint_s": checkpoint_s and round(checkpoint_s, 3),
                "rejected": sum(not kind for kind, _ in self.rejected),  # rows that cannot be used, so far
            }
            if named := sorted({name for part in numbers for name in part}):
                sums = {name: [part[name] for part in numbers if name in part] for name in named}
                line["objective"] = {
                    name: sum(v for v, _ in each) / sum(n for _, n in each) for name, each in sums.items()
                }
            if self.parallel.device.type == "cuda":
                line["peak_memory"] = torch.cuda.max_memory_allocated(self.parallel.device)
            if warning := self.heed(line):
                line["warning"] = warning
                say(warning)
            append(self.path, line)
            for sink in self._sinks:
                sink(line)
            self._written = (now, self.flops, self.rows)
        self._reports, self._losses, self._numbers = [], [], {}
        self._tokens = self._padding = self._image_tokens = 0

    def beside(self, name: str, line: dict[str, Any]) -> None:
        """A line of NAME.jsonl, another log of the run."""
        if self.parallel.is_main:
            append(self.path.with_name(f"{name}.jsonl"), line)
            for sink in self._sinks:
                sink({"step": line["step"], name: line})

    def held_out(self, line: dict[str, Any]) -> None:
        """A line of heldout.jsonl: what HeldOut.evaluate() found."""
        if self.parallel.is_main:
            append(self.heldout_path, line)
            for sink in self._sinks:
                sink({"step": line["step"], "heldout": {key: line[key] for key in ("loss", "by_time", "by_task")}})

    def images(self, step: int, path: Path) -> None:
        """Sample images that have been written."""
        for sink in self._sinks:
            sink({"step": step, "samples": path})

    def close(self) -> None:
        for sink in self._sinks:
            sink(None)


def append(path: Path, *lines: dict[str, Any]) -> None:
    """Add lines to a log. Raises EditError where that cannot be."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with files.writing(str(path)), path.open("ab+") as file:
        if path.is_file() and file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else f"\n{text}"  # one that was cut off is no line, and this is one
        file.write(text.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; none where there is none. What a process or a machine that died has half-written, or
    left as zeros, is no line."""
    found = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        with contextlib.suppress(ValueError):
            made = json.loads(line) if line.endswith(b"\n") else None
            found += [made] if isinstance(made, dict) else []
    return found


def cut(path: Path, last: float = math.inf) -> list[dict[str, Any]]:
    """Drop the lines after a step, and what is no line; returns those that are left."""
    kept = [line for line in read_lines(path) if line.get("step", 0) <= last]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    if path.exists() and path.read_bytes() != text.encode():
        files.write_bytes(str(path), text.encode())
    return kept


def flat(line: Any, name: str = "") -> dict[str, float]:
    """A line's numbers by name, those of its tables as TABLE/KEY."""
    if isinstance(line, (dict, list)):
        inner = line if isinstance(line, dict) else dict(enumerate(line))
        found: dict[str, float] = {}
        for key, value in inner.items():
            if name or key != "step":
                found |= flat(value, f"{name}/{key}" if name else str(key))
        return found
    return {name: float(line)} if isinstance(line, (int, float)) else {}


def open_tracker(name: str, out: Path, recipe: Recipe, resumed_from: int) -> Any:
    """A function that takes lines of the log, {"step", "samples": an image's Path}, and None at the end.

    Raises EditError where its package is missing.
    """
    if name not in TRACKERS:
        raise UsageError(f"no tracker `{name}`", hint=", ".join(TRACKERS))
    if name == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "train", "--track tensorboard") from None
        # what was logged after the step that a run goes on from is not shown any more
        writer = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_from + 1 if resumed_from else None)
        if not resumed_from:
            settings = dataclasses.asdict(recipe)
            writer.add_text("recipe", "".join(f"    {name} = {value!r}\n" for name, value in settings.items()), 0)

        def to_tensorboard(line: dict[str, Any] | None) -> None:
            if line is None:
                return writer.close()
            if isinstance(line.get("samples"), Path):
                with Image.open(line["samples"]) as image:
                    writer.add_image("samples", np.asarray(image), line["step"], dataformats="HWC")
            for key, value in flat(line).items():
                writer.add_scalar(key, value, line["step"])

        return to_tensorboard
    try:
        import wandb
    except ImportError:
        raise missing_extra("wandb", "wandb", "--track wandb") from None
    # a run is told from others by what its folder keeps, since folders may have one name
    run = wandb.init(
        dir=str(out), name=out.name, resume="allow", id=read_config(out)["id"], config=dataclasses.asdict(recipe)
    )

    def to_wandb(line: dict[str, Any] | None) -> None:
        if line is None:
            run.finish()
        elif isinstance(line.get("samples"), Path):
            # `samples` is the number of rows so far
            run.log({"previews": wandb.Image(str(line["samples"]))}, step=line["step"])
        else:
            run.log(flat(line), step=line["step"])

    return to_wandb
