"""The training loop, top to bottom.

The rows, the noise and the times of step s are functions of (seed, s); weights, their average and the
optimisers' state are in the checkpoint. So a run that was interrupted and continued ends with the same
weights, bit for bit on a CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edittools.errors import EditError, Interrupted, UsageError
from edittools.models.edit_dit import UNKNOWN, EditDiT, Vocabulary
from edittools.models.flow import interpolate
from edittools.train import checkpoint, ema, objective
from edittools.train.config import Recipe
from edittools.train.data import Examples, Prefetch
from edittools.train.model import build_model, optimizers

BINS = 4  # the log splits the loss by noise level into this many equal parts of [0, 1]


@dataclass(frozen=True)
class StepReport:
    """What `on_step` is told after every step."""

    step: int  # steps finished, from 1
    steps: int  # steps of the whole run
    loss: float
    grad_norm: float  # before clipping
    rate: float  # the learning rates' factor
    samples_per_s: float  # of this process, since it began or resumed
    wait_share: float  # share of that time spent waiting for data


@dataclass(frozen=True)
class Outcome:
    """The end of a finished run, as `_end.json` has it."""

    steps: int
    samples: int
    loss: float  # mean over the last tenth of the steps of this process
    seconds: float  # of this process, model building included; 0 if the run was finished already
    wait_share: float
    resumed_from: int  # 0: from the start


def train(
    recipe: Recipe,
    data: Examples,
    out: str | Path,
    *,
    data_id: str = "",
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
) -> Outcome:
    """Train a recipe's network on the rows of `data` and leave a run folder at `out`.

        config.json                   the recipe, data_id, and where the vocabulary is
        transformer/, text_encoder/   the averaged weights; transformer/ opens in diffusers
        log.jsonl                     one line per recipe.log_every steps
        _end.json                     written last: a folder without it is not a finished run

    data_id names the data; it is part of what makes two runs the same. Called again for the same run, train
    resumes it, or does nothing if it is finished; another run in the folder is a UsageError unless
    `overwrite`. The first SIGINT or SIGTERM lets the step finish, saves, and raises Interrupted; the second
    ends the process at once. A loss that is not finite, or that jumps (recipe.spike), is an EditError that
    names the step and its rows.
    """
    out, began = Path(out), time.perf_counter()
    if not len(data):
        raise EditError("there are no rows to train on")
    finished = open_run(out, recipe, data_id, overwrite)
    if finished:
        return finished
    if threads:
        torch.set_num_threads(threads)

    # The network, its average and its optimisers: new, or as the newest checkpoint has them.
    vocabulary = Vocabulary.build(list(data.instructions()))
    model = build_model(recipe, vocabulary).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    pairs = optimizers(model, recipe)
    trained = [p for p in model.parameters() if p.requires_grad]
    first, level = 0, 0.0
    if found := checkpoint.newest(out):
        state = checkpoint.load(found, model, average, [optimizer for optimizer, _ in pairs])
        first, level = state["step"], state["level"]
    log = Log(out / "log.jsonl", first)
    average_from = int(recipe.ema_from * recipe.steps)
    shape = (recipe.batch, 3, recipe.resolution, recipe.resolution)
    loop_began, last_losses = time.perf_counter(), []

    with (
        signals() as received,
        Prefetch(data, recipe.seed, recipe.batch, recipe.resolution, first, recipe.steps) as batches,
    ):
        for batch in batches:
            step = batch.step
            factor = objective.rate_factor(step, recipe.steps, recipe.warmup, recipe.decay_from)
            eps = objective.noise(recipe.seed, step, shape)
            u = objective.strata(recipe.seed, step, recipe.batch)
            t = objective.times(u, recipe.timesteps, recipe.shift)

            # The mean loss over the batch, and its gradient; rows with as many references go together.
            row_loss = torch.zeros(recipe.batch)
            for group in batch.groups:
                words = vocabulary.encode(group.instructions, recipe.max_words)
                words = objective.drop_words(words, recipe.word_dropout, UNKNOWN, recipe.seed, step).to(device)
                x0, eps_g, t_g = group.target.to(device), eps[group.rows].to(device), t[group.rows].to(device)
                references = group.references.to(device)
                output = model(interpolate(x0, eps_g, t_g), t_g, references, words)
                weights: torch.Tensor | float = 1.0
                if recipe.region_weight and references.shape[1]:
                    # fades with the learning rate: the last steps see the plain objective
                    weights = 1 + factor * (objective.region_weights(x0, references[:, 0]) - 1)
                errors = objective.errors(output, x0, eps_g, recipe.predicts, weights)
                (errors.sum() / recipe.batch).backward()
                row_loss[group.rows] = errors.detach().cpu()
            loss = row_loss.mean().item()
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip).item()
            jumped = recipe.spike and step >= 20 and loss > recipe.spike * level
            if not math.isfinite(loss + norm) or jumped:
                raise EditError(
                    f"step {step + 1}: loss {loss:.4g} (mean so far {level:.4g}), gradient norm {norm:.4g}; "
                    f"rows {' '.join(batch.ids)}",
                    hint="look at these rows, or lower the learning rates",
                )
            level = loss if step == 0 else 0.98 * level + 0.02 * loss

            for optimizer, rate in pairs:
                for group_of in optimizer.param_groups:
                    group_of["lr"] = rate * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = step + 1
            ema.update(average, model, max(1, done - average_from), recipe.ema)

            # Tell, log, save, stop.
            seconds = time.perf_counter() - loop_began
            report = StepReport(
                done,
                recipe.steps,
                loss,
                norm,
                factor,
                (done - first) * recipe.batch / seconds,
                batches.waited / seconds,
            )
            if done > 0.9 * recipe.steps:
                last_losses.append(loss)
            log.add(report, row_loss, t)
            stop = bool(received) and done < recipe.steps
            if done % recipe.log_every == 0 or done == recipe.steps or stop:
                log.write()
            if stop or (done % recipe.checkpoint_every == 0 and done < recipe.steps):
                log.write()
                checkpoint.save(out, done, model, average, [optimizer for optimizer, _ in pairs], {"level": level})
            if on_step:
                on_step(report)
            if stop:
                raise Interrupted(received[0])

    save_model(average, out)
    end = {
        "steps": recipe.steps,
        "samples": recipe.steps * recipe.batch,
        "loss": sum(last_losses) / len(last_losses) if last_losses else level,
    }
    write_json(out / "_end.json", end)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    waited = batches.waited / max(time.perf_counter() - loop_began, 1e-9)
    return outcome(end, time.perf_counter() - began, waited, first)


def outcome(end: dict[str, Any], seconds: float, wait_share: float, resumed_from: int) -> Outcome:
    """`_end.json` and what only this process knows."""
    return Outcome(end["steps"], end["samples"], end["loss"], seconds, wait_share, resumed_from)


def open_run(out: Path, recipe: Recipe, data_id: str, overwrite: bool) -> Outcome | None:
    """Make the run folder, or check that it holds this very run; a finished run's outcome."""
    config = {
        "format": "edittools run 1",
        "recipe": dataclasses.asdict(recipe),
        "data": data_id,
        "vocabulary": "text_encoder/vocab.json",
    }
    path = out / "config.json"
    if path.exists() and overwrite:
        for name in ("_end.json", "log.jsonl"):
            (out / name).unlink(missing_ok=True)
        for name in ("checkpoints", "transformer", "text_encoder"):
            shutil.rmtree(out / name, ignore_errors=True)
        path.unlink()
    if path.exists():
        if json.loads(path.read_text()) != config:
            raise UsageError(
                f"{out} holds another run (its recipe or its data differ)",
                hint="another folder, or --overwrite to replace it",
            )
        if (out / "_end.json").exists():
            end = json.loads((out / "_end.json").read_text())
            return outcome(end, 0.0, 0.0, end["steps"])
        return None
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and not a run folder", hint="name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    return None


def save_model(model: EditDiT, out: Path) -> None:
    """transformer/ in diffusers' layout and text_encoder/, each flushed under another name and renamed."""
    for name, save in (("transformer", model.transformer.save_pretrained), ("text_encoder", model.text.save)):
        temporary = out / f".tmp-{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        save(temporary)
        checkpoint.flush(temporary)
        shutil.rmtree(out / name, ignore_errors=True)
        temporary.rename(out / name)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file beside its place, flush it, rename it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


class Log:
    """log.jsonl: means since the previous line, with the loss split by noise level.

    Lines after the step that a run resumes from are dropped: those steps are done again.
    """

    def __init__(self, path: Path, resumed_from: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        path.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= resumed_from)
        )
        self._reports: list[StepReport] = []
        self._losses: list[torch.Tensor] = []
        self._times: list[torch.Tensor] = []

    def add(self, report: StepReport, losses: torch.Tensor, times: torch.Tensor) -> None:
        self._reports.append(report)
        self._losses.append(losses)
        self._times.append(times)

    def write(self) -> None:
        if not self._reports:
            return
        losses, bins = torch.cat(self._losses), (torch.cat(self._times) * BINS).long().clamp(max=BINS - 1)
        last, count = self._reports[-1], len(self._reports)
        line = {
            "step": last.step,
            "loss": losses.mean().item(),
            "loss_by_noise": [losses[bins == k].mean().item() if (bins == k).any() else None for k in range(BINS)],
            "grad_norm": sum(report.grad_norm for report in self._reports) / count,
            "rate": last.rate,
            "samples_per_s": round(last.samples_per_s, 2),
            "wait_share": round(last.wait_share, 4),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._reports, self._losses, self._times = [], [], []


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM is put into; the second ends the process by its default action."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def handle(signum: int, frame: Any) -> None:
        if received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        received.append(signum)

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
