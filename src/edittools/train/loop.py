"""The training loop, top to bottom.

The rows, the noise and the times of step s are functions of (seed, s); weights, their average and the optimisers'
state are in the checkpoint. So a run that was interrupted and continued ends with the same weights, bit for bit on
one CPU process, as one that was not; and the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import contextlib
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
from torch import Tensor

from edittools.errors import EditError, Interrupted, UsageError
from edittools.models.flow import interpolate
from edittools.models.pictures import fit_box
from edittools.models.speed import compile_blocks, set_attention
from edittools.models.systems.base import System
from edittools.models.weights import read_config
from edittools.train import checkpoint, consistency, objective
from edittools.train.activations import checkpoint_activations
from edittools.train.config import Recipe
from edittools.train.data import Loader, Step
from edittools.train.export import save_model
from edittools.train.features import Features
from edittools.train.log import Log, StepReport
from edittools.train.optimizers import Average, Optimizers
from edittools.train.parallel import Parallel, full
from edittools.train.plan import Plan, Sample
from edittools.train.rows import Row
from edittools.train.samples import save_samples


@dataclass(frozen=True)
class Outcome:
    """The end of a finished run, as `_end.json` has it."""

    steps: int
    samples: int
    loss: float  # mean over the last tenth of the steps of this process
    seconds: float  # of this process; 0 if the run was finished already
    wait_share: float
    resumed_from: int  # 0: from the start


def train(
    recipe: Recipe,
    plan: Plan,
    system: System,
    features: Callable[[Sample], Features],
    out: str | Path,
    *,
    data_id: str = "",
    parallel: Parallel | None = None,
    loaders: int = 1,
    trackers: list[str] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Outcome:
    """Train a system's network on the plan's samples and leave a run folder at `out`.

        config.json      the recipe and data_id
        transformer/     and the system's other parts: the averaged weights, as their libraries open them
        log.jsonl        one line per recipe.log_every steps
        samples/         pictures, every recipe.sample_every steps
        _end.json        written last: a folder without it is not a finished run

    The folder has been opened by open_run(). `features` gives what the frozen encoders say, `loaders` is the number of
    threads that ask it; `trackers` are of "tensorboard" and "wandb". Called again for the same run, train resumes it.
    The first SIGINT or SIGTERM lets the step finish, saves, and raises Interrupted; the second ends the process at
    once. A loss that is not finite, or that jumps (recipe.spike), is an EditError that names the step and its rows.
    """
    out, began = Path(out), time.perf_counter()
    parallel = parallel or Parallel("single", 0, 1, torch.device("cpu"))
    if recipe.batches % parallel.world:
        raise UsageError(
            f"`batches` is {recipe.batches} forward passes a step, which {parallel.world} processes cannot share"
        )
    dtype = getattr(torch, recipe.dtype)

    # The network, its average and its optimisers: new, or as the newest checkpoint has them.
    checkpoint_activations(system, recipe.checkpointing)
    if recipe.attention:
        choose_attention(system, recipe.attention, parallel.device, dtype)
    if recipe.compile:
        compile_blocks(system.blocks())
    inner = {id(p) for block in system.blocks() for p in block.parameters()}
    inside = {name for name, p in system.network.named_parameters() if id(p) in inner}
    network = parallel.wrap(system.network, system.blocks(), dtype)
    trained = {name: p for name, p in system.network.named_parameters() if p.requires_grad}
    optimizers = Optimizers(recipe, trained, {id(trained[name]) for name in inside & set(trained)})
    average = Average(trained, recipe.ema)
    first, level = 0, 0.0

    def state() -> dict[str, Tensor]:
        return (
            {f"model/{name}": p.detach() for name, p in trained.items()}
            | {f"average/{name}": value for name, value in average.values.items()}
            | optimizers.tensors()
        )

    found = checkpoint.newest(out)
    if parallel.any(found is not None):
        if found is None:
            raise EditError(f"{out}: this process does not see the checkpoint that others see")
        optimizers.prepare()
        tensors = state()
        kept = checkpoint.load(found, tensors, parallel)
        optimizers.restore(tensors)
        first, level = kept["step"], kept["level"]
    log = Log(out, first, recipe, parallel, trackers or [])
    encoder = None
    if recipe.consistency:
        encoder = consistency.FrozenEncoder.load(recipe.consistency_encoder, str(parallel.device), recipe.dtype)
    network.train()  # adapters may drop out
    average_from = int(recipe.ema_from * recipe.steps)
    loop_began, last_losses = time.perf_counter(), []
    loader = Loader(
        recipe, plan, system, features, first=first, rank=parallel.rank, world=parallel.world, threads=loaders,
        pin=parallel.device.type == "cuda",
    )  # fmt: skip

    with signals() as received, loader:
        for work in loader:
            step = work.step
            factor = objective.rate_factor(recipe, step)

            # The mean loss over the step's rows, and its gradient.
            losses = forward_backward(recipe, system, network, work, factor, encoder, parallel, dtype)
            norm = float(full(torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip)))
            shared = parallel.sum(torch.tensor([sum(loss.sum().item() for loss in losses)], dtype=torch.float64))
            loss = shared.item() / work.rows
            jumped = recipe.spike and step >= 20 and loss > recipe.spike * level
            if not math.isfinite(loss + norm) or jumped:
                mine = [row.id for batch in work.batches for row in batch.rows]
                rows = [name for names in parallel.gather(mine) for name in names]
                raise EditError(
                    f"step {step + 1}: loss {loss:.4g} (mean so far {level:.4g}), gradient norm {norm:.4g}; "
                    f"rows {' '.join(rows)}",
                    hint="look at these rows, or lower the learning rates",
                )
            level = loss if step == 0 else 0.98 * level + 0.02 * loss
            optimizers.step(factor)
            done = step + 1
            average.update(max(1, done - average_from))

            # Tell, log, save, stop.
            report = log.add(done, loss, norm, factor, work, losses, system, loader.waited)
            if done > 0.9 * recipe.steps:
                last_losses.append(loss)
            stop = parallel.any(bool(received)) and done < recipe.steps
            if done % recipe.log_every == 0 or done == recipe.steps or stop:
                log.write()
            if stop or (done % recipe.checkpoint_every == 0 and done < recipe.steps):
                log.write()
                checkpoint.save(out, done, state(), {"level": level}, parallel)
            if recipe.sample_every and done % recipe.sample_every == 0:
                save_samples(recipe, plan, system, network, features, out / "samples" / f"{done:08d}.png", parallel)
            if on_step:
                on_step(report)
            if stop:
                raise Interrupted(received[0] if received else signal.SIGTERM)

    save_model(system, system.network, average.values, out, parallel)
    end = {
        "steps": recipe.steps,
        "samples": log.rows,
        "loss": sum(last_losses) / len(last_losses) if last_losses else level,
    }
    if parallel.is_main:
        write_json(out / "_end.json", end)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    parallel.wait()
    log.close()
    waited = loader.waited / max(time.perf_counter() - loop_began, 1e-9)
    return outcome(end, time.perf_counter() - began, waited, first)


def forward_backward(
    recipe: Recipe,
    system: System,
    network: Any,
    work: Step,
    factor: float,
    encoder: consistency.FrozenEncoder | None,
    parallel: Parallel,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Losses (B,) of this process's batches; the gradient of the step's mean loss is left in the parameters."""
    losses = []
    for number, batch in enumerate(work.batches):
        b = batch.to(parallel.device)
        # x_t and the weights from the float32 t; the network itself may round it
        x_t = interpolate(b.target, b.noise, b.t)
        # what adapters drop is a function of (seed, step, batch) too
        place = number * parallel.world + parallel.rank
        torch.manual_seed(objective.generator(recipe.seed, work.step, 3, place).initial_seed())
        with parallel.last_of_step(network, number == len(work.batches) - 1):
            with parallel.arithmetic(dtype):
                output = network(x_t, b.t, b.references, b.conditions)
            weights: Tensor | float = 1.0
            if recipe.region_weight and b.references and b.references[0].shape == b.target.shape:
                # fades with the learning rate: the last steps see the plain objective
                weights = 1 + factor * (objective.region_weights(b.target, b.references[0]) - 1)
            if b.masks is not None:
                weights = weights * objective.mask_weights(b.masks, recipe.mask_weight)
            rows = objective.errors(output, b.target, b.noise, system.predicts, weights)
            rows = rows * objective.time_weights(recipe, b.t)
            if encoder is not None and work.step % recipe.consistency_every == 0:
                guess = system.x0(output.float(), x_t, b.t)
                boxes = [placed_boxes(row, sample.shapes[0]) for row, sample in zip(b.rows, b.samples)]
                rows = rows + consistency.loss(system, encoder, guess, b.target, b.t, boxes, recipe.consistency)
            # gradients are averaged over processes, and the loss is the mean over all their rows
            (rows.sum() * (parallel.world / work.rows)).backward()
        losses.append(rows.detach())
    return [rows.cpu() for rows in losses]  # the only place that waits for the device


def choose_attention(system: System, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises UsageError for a backend that is not there or takes no masks: texts of a batch may differ in length.

    Only torch's own: others have no backward pass, or do not take the precisions that autocast mixes.
    """
    if name.lower() != "native" and not name.lower().startswith("_native"):
        raise UsageError(f"`attention`: {name} does not train", hint="native, _native_cudnn, _native_efficient")
    if set_attention(system.network.transformer, name, device, dtype):
        raise UsageError(f"`attention`: {name} takes no masks, which texts of different lengths need")


def placed_boxes(row: Row, shape: tuple[int, int]) -> list[consistency.Box]:
    """A row's boxes within the part of its target that a shape keeps."""
    height, width = row.target
    left, top, right, bottom = fit_box(height, width, *shape)
    placed = []
    for x0, y0, x1, y1 in row.boxes:
        box = (
            max(0.0, (x0 * width - left) / (right - left)),
            max(0.0, (y0 * height - top) / (bottom - top)),
            min(1.0, (x1 * width - left) / (right - left)),
            min(1.0, (y1 * height - top) / (bottom - top)),
        )
        if box[0] < box[2] and box[1] < box[3]:
            placed.append(box)
    return placed


def outcome(end: dict[str, Any], seconds: float, wait_share: float, resumed_from: int) -> Outcome:
    """`_end.json` and what only this process knows."""
    return Outcome(end["steps"], end["samples"], end["loss"], seconds, wait_share, resumed_from)


def check_run(out: str | Path, recipe: Recipe, data_id: str = "", overwrite: bool = False) -> Outcome | None:
    """The outcome of this very run, where the folder holds it finished; None where it may begin or go on.

    data_id names the data; it is part of what makes two runs the same. Raises UsageError where the folder holds
    something else, unless that is a run to `overwrite`, and EditError where it is damaged.
    """
    out = Path(out)
    if not (out / "config.json").exists():
        if out.exists() and any(out.iterdir()):
            raise UsageError(f"{out} is not empty and not a run folder", hint="name another folder")
        return None
    if overwrite:
        return None
    if read_config(out) != _config(recipe, data_id):
        raise UsageError(
            f"{out} holds another run (its recipe, its data, or --cache or not)",
            hint="another folder, or --overwrite to replace it",
        )
    if not (out / "_end.json").exists():
        return None
    end = read_config(out, "_end.json")
    try:
        return outcome(end, 0.0, 0.0, end["steps"])
    except KeyError as error:
        raise EditError(f"{out / '_end.json'}: no {error}", hint="--overwrite trains anew") from error


def open_run(out: str | Path, recipe: Recipe, data_id: str = "", overwrite: bool = False) -> Outcome | None:
    """Make the run folder. Returns and raises what `check_run` does."""
    out = Path(out)
    finished = check_run(out, recipe, data_id, overwrite)
    path = out / "config.json"
    if path.exists() and overwrite:
        for entry in out.iterdir():
            if entry != path and not entry.is_dir():
                entry.unlink()
            elif entry != path:
                shutil.rmtree(entry)
        path.unlink()
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, _config(recipe, data_id))
    return finished


def _config(recipe: Recipe, data_id: str) -> dict[str, Any]:
    config = {"format": "edittools run 1", "recipe": dataclasses.asdict(recipe), "data": data_id}
    return json.loads(json.dumps(config))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file beside its place, flush it, rename it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


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
