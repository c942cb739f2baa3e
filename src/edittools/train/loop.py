"""The training loop, top to bottom.

The rows, the noise and the times of step s are functions of (seed, s); weights, their average and the optimisers'
state are in the checkpoint. So a run that was interrupted and continued ends with the same weights, bit for bit on
one CPU process, as one that was not; and the number of processes changes nothing but rounding. A run that goes on with
other rows or other batches does so in a new epoch.
"""

from __future__ import annotations

import contextlib
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

from edittools.errors import EditError, Interrupted, UsageError, describe
from edittools.models.flow import interpolate
from edittools.models.speed import compile_blocks, set_attention
from edittools.models.systems.base import System
from edittools.train import checkpoint, consistency, objective
from edittools.train.activations import checkpoint_activations
from edittools.train.config import Recipe
from edittools.train.data import Loader, Step
from edittools.train.export import keep_model, kept_folder, link_best, save_model
from edittools.train.features import Features
from edittools.train.folder import Outcome, alone, outcome, write_json
from edittools.train.frozen import BlockSwap, quantize_frozen
from edittools.train.heldout import HeldOut, value
from edittools.train.log import Log, StepReport, read_lines, say
from edittools.train.parallel import Parallel, full
from edittools.train.plan import Plan, Sample, crops
from edittools.train.rejects import Rejects
from edittools.train.samples import Previews
from edittools.train.state import TrainState


def train(
    recipe: Recipe,
    plan: Plan,
    system: System,
    features: Callable[[Sample], Features],
    out: str | Path,
    *,
    branch: Path | None = None,
    rejects: Rejects | None = None,
    parallel: Parallel | None = None,
    loaders: int = 1,
    trackers: list[str] | None = None,
    heldout: HeldOut | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Outcome:
    """Train a system's network on the plan's samples and leave a run folder at `out`.

        config.json      the recipe, what is known of the data, and what was changed on the way
        transformer/     and the system's other parts: the averaged weights, as their libraries open them
        @STEP/           a run folder with the weights of that step, every recipe.keep_every steps
        checkpoints/     what the run goes on from, with more `steps` when it is finished
        log.jsonl        one line per recipe.log_every steps
        heldout.jsonl    the loss of rows that are not trained on, every recipe.heldout_every steps
        rejects.jsonl    rows that cannot be used, and why
        samples/         pictures, every recipe.sample_every steps
        _end.json        written last: a folder without it is not a finished run

    The folder has been opened by open_run(). `features` gives what the frozen encoders say, `loaders` is the number of
    threads that ask it; `trackers` are of "tensorboard" and "wandb"; `branch` is a checkpoint to begin from where the
    run has none; `rejects` says how many rows that cannot be used are tolerated. Called again for the same run, train
    resumes it. The first SIGINT or SIGTERM lets the step finish, saves, and raises Interrupted; the second ends the
    process at once. A loss that is not finite, or that jumps (recipe.spike), is an EditError that names the step and
    its rows.
    """
    out, began = Path(out), time.perf_counter()
    parallel = parallel or Parallel("single", 0, 1, torch.device("cpu"))
    with contextlib.ExitStack() as stack:
        parallel.on_main(lambda: stack.enter_context(alone(out)))
        parallel.on_main(lambda: tidy(out))
        checkpoint_activations(system, recipe.checkpointing)
        swap = shrink_frozen(system, recipe, parallel)
        if recipe.attention:
            name = choose_attention(system, recipe.attention, parallel.device, getattr(torch, recipe.dtype), plan)
            if parallel.is_main and recipe.attention == "auto" and parallel.device.type != "cpu":
                say(f"attention: {name}")
        if parallel.device.type != "cpu":
            if recipe.compile:
                compile_blocks(system.blocks())
            if recipe.dtype != "float32":  # the few products that autocast leaves in float32: in TF32
                torch.set_float32_matmul_precision("high")
        inner = {id(p) for block in system.blocks() for p in block.parameters()}
        inside = {name for name, p in system.network.named_parameters() if id(p) in inner}
        waiting = swap.waiting if swap else ()
        network = parallel.wrap(system.network, system.blocks(), getattr(torch, recipe.dtype), waiting)
        trained = {name: p for name, p in system.network.named_parameters() if p.requires_grad}
        blocks = {id(trained[name]) for name in inside & set(trained)}
        state = TrainState(recipe, trained, blocks, system.words())
        state.resume(out, branch, parallel)
        if state.follow(plan) and parallel.is_main:
            say(f"the batches are not those of before: a new epoch begins at step {state.step}")
        run = Run(recipe, plan, system, network, out, parallel, state, heldout)
        first = state.step
        rejects = Rejects() if rejects is None else rejects
        rejects.rows = rejects.rows or len(plan.rows)
        log = Log(out, first, recipe, parallel, trackers or [], rejects)
        log.reject()  # what is known before the first step
        run.keep(log.rows)  # what a run that ended while it kept a model has not kept
        loader = Loader(
            recipe, plan, system, features, first=first, begins=state.plan_begins, rank=parallel.rank,
            world=parallel.world, threads=loaders, pin=parallel.device.type == "cuda", rejects=rejects,
        )  # fmt: skip
        loop_began = time.perf_counter()
        run.loop(loader, log, on_step)
        state.save(out, parallel)  # should the export fail, it can be done again
        save_model(system, system.network, state.weights(), out, parallel)
        end = run.end(log.rows)
        parallel.on_main(lambda: write_json(out / "_end.json", end))
        if parallel.is_main:
            checkpoint.prune(out, 1, recipe.keep_every)
        log.close()
        waited = loader.waited / max(time.perf_counter() - loop_began, 1e-9)
        return outcome(end, time.perf_counter() - began, waited, first)


def tidy(out: Path) -> None:
    """Remove what an earlier process has left half-written."""
    for path in [*out.glob(".tmp-*"), *(out / "checkpoints").glob(".tmp*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def link_lowest(out: Path) -> None:
    """Make `@best` stand for the kept model of the least held-out loss, if any model has been kept."""
    losses = {line["step"]: value(line) for line in read_lines(out / "heldout.jsonl")}
    kept = [step for step in losses if kept_folder(out, step).is_dir()]
    if kept:
        link_best(out, min(kept, key=lambda step: (losses[step], step)))


@dataclass
class Run:
    """The loop's parts."""

    recipe: Recipe
    plan: Plan
    system: System
    network: Any
    out: Path
    parallel: Parallel
    state: TrainState
    heldout: HeldOut | None = None
    whole: bool = True  # the state is that of a finished step

    def loop(self, loader: Loader, log: Log, on_step: Callable[[StepReport], None] | None) -> None:
        recipe, parallel, state = self.recipe, self.parallel, self.state
        encoder = None
        if recipe.consistency:
            encoder = consistency.FrozenEncoder.load(recipe.consistency_encoder, str(parallel.device), recipe.dtype)
            encoder.check(self.plan.rows)
        if recipe.sample_every:
            rows = self.heldout.rows if self.heldout is not None else self.plan.rows
            previews = Previews(recipe, rows, self.system)
        self.network.train()  # adapters may drop out
        if state.step == 0:
            self.measure(log)
        with signals() as received, self.saving(log), loader:
            if parallel.device.type != "cpu" and state.step < recipe.steps:
                self.try_largest(loader, encoder)
            for work in loader:
                factor = objective.rate_factor(recipe, work.step)
                losses, loss, norm = self.update(work, factor, encoder)
                done = state.step

                # Tell, log, save, stop.
                report = log.add(done, loss, norm, factor, work, losses, self.system, loader.waited)
                stop = parallel.any(bool(received)) and done < recipe.steps
                kept = recipe.keep_every and done % recipe.keep_every == 0
                saves = stop or kept or done % recipe.checkpoint_every == 0
                if done % recipe.log_every == 0 or done == recipe.steps or saves:
                    log.write()
                if saves and done < recipe.steps:
                    state.save(self.out, parallel)
                self.keep(log.rows)
                if kept or done % (recipe.heldout_every or recipe.checkpoint_every) == 0 or done == recipe.steps:
                    self.measure(log)
                if recipe.sample_every and done % recipe.sample_every == 0:
                    path = self.out / "samples" / f"{done:08d}.png"
                    previews.save(self.network, state.average, path, parallel)
                    log.pictures(done, path)
                if on_step:
                    on_step(report)
                if stop:
                    raise Interrupted(received[0] if received else signal.SIGTERM)

    def measure(self, log: Log) -> None:
        """Log the held-out loss of the weights as they are now, and of their average once there is one.

        Of the models that have been kept, that of the least one is `@best`.
        """
        if self.heldout is not None:
            average = self.state.average if self.state.step else None
            log.held_out(self.heldout.evaluate(self.network, average, self.state.step, self.parallel))
            self.parallel.on_main(lambda: link_lowest(self.out))

    def try_largest(self, loader: Loader, encoder: consistency.FrozenEncoder | None) -> None:
        """The forward and backward pass of the batch that needs most memory; nothing is learnt from it.

        What does not fit is known before the first step, and not after hours.
        """
        draws = self.plan.largest()
        batch = loader.load(self.state.step, len(draws), 0, draws)
        work = Step(self.state.step, len(draws) * self.parallel.world, [batch])
        dtype = getattr(torch, self.recipe.dtype)
        forward_backward(self.recipe, self.system, self.network, work, 1.0, encoder, self.parallel, dtype)
        for parameter in self.state.trained.values():
            parameter.grad = None

    def update(
        self, work: Step, factor: float, encoder: consistency.FrozenEncoder | None
    ) -> tuple[list[Tensor], float, float]:
        """One step. Returns the losses (B,) of this process's batches, their mean over all, the gradient's norm."""
        recipe, parallel, state = self.recipe, self.parallel, self.state
        # The mean loss over the step's rows, and its gradient.
        dtype = getattr(torch, recipe.dtype)
        losses = forward_backward(recipe, self.system, self.network, work, factor, encoder, parallel, dtype)
        norm = float(full(torch.nn.utils.clip_grad_norm_(state.trained.values(), recipe.clip)))
        shared = parallel.sum(torch.tensor([sum(loss.sum().item() for loss in losses)], dtype=torch.float64))
        loss = shared.item() / work.rows
        self.check(work, loss, norm)
        state.level = loss if work.step == 0 else 0.98 * state.level + 0.02 * loss
        self.whole = False
        state.optimizers.step(factor)
        state.step, state.epoch = work.step + 1, max(state.epoch, work.epoch)
        state.average.update(max(1, state.step - int(recipe.ema_from * recipe.steps)))
        counted = state.step > 0.9 * recipe.steps
        state.tail = (state.tail[0] + loss, state.tail[1] + 1) if counted else (0.0, 0)
        self.whole = True
        return losses, loss, norm

    def check(self, work: Step, loss: float, norm: float) -> None:
        """Raises Diverged for a loss that is not finite, or that jumps."""
        level = self.state.level
        jumped = self.recipe.spike and work.step >= 20 and loss > self.recipe.spike * level
        if math.isfinite(loss + norm) and not jumped:
            return
        mine = [row.id for batch in work.batches for row in batch.rows]
        rows = [name for names in self.parallel.gather(mine) for name in names]
        raise Diverged(
            f"step {work.step + 1}: loss {loss:.4g} (mean so far {level:.4g}), gradient norm {norm:.4g}; "
            f"rows {' '.join(rows)}",
            hint="look at these rows, or run the same command with lower learning rates: it goes on from the last "
            "checkpoint",
        )

    @contextlib.contextmanager
    def saving(self, log: Log) -> Iterator[None]:
        """Save the finished steps before whatever else goes wrong ends the run, on one process.

        Not where the loss has diverged: the weights may be bad already. Several processes cannot, since the others
        do not know.
        """
        try:
            yield
        except (Diverged, checkpoint.NotWritten):
            raise
        except Exception as error:
            if self.parallel.world == 1:
                log.reject()
            if self.parallel.world == 1 and self.whole and self.state.step > log.first:
                with contextlib.suppress(EditError):
                    log.write()
                    self.state.save(self.out, self.parallel)
            if out_of_memory(error):
                raise EditError(
                    f"step {self.state.step + 1}: out of memory: {describe(error)}",
                    hint='the same command goes on with `checkpointing` "full", or with fewer `batch_tokens` and more '
                    "`batches`",
                ) from error
            raise

    def keep(self, rows: int) -> None:
        """Keep the model of this step where the recipe says so; rows: that were trained on so far."""
        step, every = self.state.step, self.recipe.keep_every
        if every and step and step % every == 0 and not self.parallel.any(kept_folder(self.out, step).exists()):
            network, weights = self.system.network, self.state.weights()
            keep_model(self.system, network, weights, self.out, step, self.end(rows), self.parallel)

    def end(self, rows: int) -> dict[str, Any]:
        """`_end.json` of the model as it is now."""
        total, number = self.state.tail
        loss = total / number if number else self.state.level
        return {"steps": self.state.step, "samples": rows, "loss": loss}


class Diverged(EditError):
    """A loss that is not finite, or jumped."""


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


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
    # Where other processes have a batch more, this one goes through the network as often, and what it makes counts 0.
    every = [*work.batches, *work.spare]
    for number, batch in enumerate(every):
        b = batch.to(parallel.device)
        # x_t and the weights from the float32 t; the network itself may round it
        x_t = interpolate(b.target, b.noise, b.t)
        # what adapters drop is a function of (seed, step, batch) too
        place = number * parallel.world + parallel.rank
        torch.manual_seed(objective.generator(recipe.seed, work.step, 3, place).initial_seed())
        with parallel.last_of_step(network, number == len(every) - 1):
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
                shown = [
                    consistency.regions(row, crops(row, sample)[0], encoder) for row, sample in zip(b.rows, b.samples)
                ]
                rows = rows + consistency.loss(system, encoder, guess, b.target, b.t, shown, recipe.consistency)
            # gradients are averaged over processes, and the loss is the mean over all their rows
            (rows.sum() * (parallel.world / work.rows if number < len(work.batches) else 0.0)).backward()
        losses.append(rows.detach())
    losses = losses[: len(work.batches)]
    return [rows.cpu() for rows in losses]  # the only place that waits for the device


def shrink_frozen(system: System, recipe: Recipe, parallel: Parallel) -> BlockSwap | None:
    """What the recipe says of weights that do not train: fewer bits, a place in the main memory. Raises UsageError."""
    if (recipe.quantize or recipe.block_swap) and parallel.mode in ("fsdp", "hsdp"):
        raise UsageError("recipe: `quantize`, `block_swap`: not where weights are sharded", hint="--parallel ddp")
    if recipe.quantize:
        quantize_frozen(system.blocks(), recipe.quantize, parallel.device)
    return BlockSwap(system.blocks(), recipe.block_swap, parallel.device) if recipe.block_swap else None


ATTENTION = ("_native_cudnn", "native")  # "auto" takes the first that works: cuDNN's is the fastest on Hopper


def choose_attention(system: System, name: str, device: torch.device, dtype: torch.dtype, plan: Plan) -> str:
    """Choose a backend of attention; returns which. "auto" is the fastest that works, on a CPU torch's own choice.

    Raises UsageError for one that is not there, takes no masks (texts of a batch may differ in length), or whose
    gradients, at the lengths of this run, are not finite. Only torch's own: others have no backward pass, or do not
    take the precisions that autocast mixes.
    """
    if name != "auto" and name.lower() != "native" and not name.lower().startswith("_native"):
        raise UsageError(f"`attention`: {name} does not train", hint="auto, native, _native_cudnn, _native_efficient")
    tokens = plan.tokens()
    lengths = sorted({tokens + 77, tokens + 512})  # and a text
    names = [name] if name != "auto" else ["native"] if device.type == "cpu" else list(ATTENTION)
    for last, tried in [(each == names[-1], each) for each in names]:
        try:
            if set_attention(system.network.transformer, tried, device, dtype, lengths, backward=True):
                raise UsageError(f"`attention`: {tried} takes no masks, which texts of different lengths need")
            return tried
        except UsageError:
            if last:
                raise
    raise AssertionError("the last one returns or raises")


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
