"""The training loop, top to bottom.

The rows, the noise and the times of step s are functions of (seed, s); weights, their average and the optimisers'
state are in the checkpoint. So a run that was interrupted and continued ends with the same weights, bit for bit on
one CPU process, as one that was not; and the number of processes changes nothing but rounding. A run that goes on with
other rows or other batches does so in a new epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edittools.errors import EditError, UsageError, describe
from edittools.nets.acceleration import arithmetic, compile_blocks, set_attention
from edittools.nets.base import EditModel
from edittools.train.activations import checkpoint_activations
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.config import Recipe
from edittools.train.data import Loader, Step
from edittools.train.features import Features
from edittools.train.flow_matching import generator
from edittools.train.folder import RunEnd, outcome
from edittools.train.frozen import BlockSwap, check_shared, quantize_frozen
from edittools.train.heldout import HeldOut
from edittools.train.keeping import Keeper, tidy
from edittools.train.log import Log, StepReport
from edittools.train.monitor import Monitor
from edittools.train.objectives import Around, Losses, Objective, TrainedModel, load_objective
from edittools.train.optimizers import rate_factor
from edittools.train.parallel import Parallel, full
from edittools.train.rejects import Rejects
from edittools.train.rescue import Diverged, Left, Rescue
from edittools.train.state import TrainState


def train(
    recipe: Recipe,
    sampler: BucketSampler,
    edit_model: EditModel,
    features: Callable[[TrainSample], Features],
    out: str | Path,
    *,
    branch: Path | None = None,
    rejects: Rejects | None = None,
    parallel: Parallel | None = None,
    loaders: int = 1,
    trackers: list[str] | None = None,
    heldout: HeldOut | None = None,
    rescue: Rescue | None = None,
    on_start: Callable[[str], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> RunEnd:
    """Train a model's network on the sampler's samples and leave a run folder at `out`: see keeping.py.

    The folder has been opened by open_run(). `features` gives what the frozen encoders say, `loaders` is the number of
    threads that ask it; `trackers` are of "tensorboard" and "wandb"; `branch` is a checkpoint to begin from where the
    run has none; `on_start` is told what it computes in; `rejects` says how many rows that cannot be used are
    tolerated; `rescue` is one that is ready already. Called again for the same run, train resumes it. The first
    SIGINT, SIGTERM or SIGUSR1 lets the step finish, saves, and raises Interrupted: what else was due then, a held-out
    loss, previews, a kept model, is made when the run goes on. Another SIGINT or SIGTERM ends the process at once. A
    loss that is not finite, or that jumps (recipe.spike), is an EditError that names the step and its rows.
    """
    out, began = Path(out), time.perf_counter()
    parallel = parallel or Parallel("single", 0, 1, torch.device("cpu"))
    rejects = Rejects() if rejects is None else rejects
    rejects.rows = rejects.rows or len(sampler.rows)
    with contextlib.nullcontext(rescue) if rescue else Rescue(parallel).ready() as rescue:
        rescue.hold(out)
        parallel.on_main(lambda: tidy(out))
        objective = load_objective(recipe, edit_model, sampler.rows, parallel.device)
        prepared = prepare(recipe, sampler, edit_model, parallel, on_start)
        state = TrainState(recipe, prepared.trained, prepared.blocks, edit_model.words(), edit_model.rate)
        state.resume(out, branch, parallel)
        state.follow(sampler, parallel)
        first = state.step
        keeper = Keeper(recipe, edit_model, state, out, parallel)
        held = heldout.rejects if heldout else None
        log = Log(out, first, recipe, parallel, trackers or [], rejects, held, objective.heed)
        rescue.keep(out, state, keeper.saver, log)
        log.reject()  # what is known before the first step
        keeper.catch_up(log.rows)
        monitor = Monitor(recipe, sampler, edit_model, prepared.network, state, heldout, log, out, parallel)
        # the steps
        begins = objective.planned(state.plan_begins[0]), state.plan_begins[1]
        loader = Loader(
            recipe, sampler, edit_model, features, first=objective.planned(first), begins=begins, rank=parallel.rank,
            world=parallel.world, threads=loaders, pin=parallel.device.type == "cuda", rejects=rejects,
        )  # fmt: skip
        model = TrainedModel(recipe, edit_model, prepared.network, parallel, state.copies)
        received, loop_began = rescue.lasting.enter_context(signals()), time.perf_counter()
        around = Around(first, out, log.beside, heldout)
        Run(sampler, model, objective, state, keeper, log, monitor, around).loop(loader, received, on_step)
        end, now = keeper.finish(log.rows), time.perf_counter()
        log.close()
        return outcome(end, now - began, loader.waited / max(now - loop_began, 1e-9), first)


@dataclass(frozen=True)
class ReadyNetwork:
    """A network that is ready to be trained."""

    network: Any  # as it is called
    trained: dict[str, nn.Parameter]  # by name
    blocks: set[int]  # the ids of those in the network's repeated blocks


def prepare(
    recipe: Recipe,
    sampler: BucketSampler,
    edit_model: EditModel,
    parallel: Parallel,
    on_start: Callable[[str], None] | None,
) -> ReadyNetwork:
    """Bring the architecture's network to the device, as small and as fast as the recipe says; `on_start` is told
    how.
    """
    dtype, accelerated = getattr(torch, recipe.dtype), parallel.device.type != "cpu"
    checkpoint_activations(edit_model, recipe.checkpointing)
    swap = shrink_frozen(edit_model, recipe, parallel)
    attention, compiles = "", recipe.compile and accelerated
    if recipe.attention:
        attention = choose_attention(edit_model, recipe.attention, parallel.device, dtype, sampler)
    if compiles:
        compile_blocks(edit_model.blocks())
    if accelerated and recipe.dtype != "float32":
        torch.set_float32_matmul_precision("high")  # the few products that autocast leaves in float32: in TF32
    if on_start:
        on_start(arithmetic(str(parallel.device), recipe.dtype, attention, compiles))
    # by name: sharding puts other parameters in their places
    inner = {id(p) for block in edit_model.blocks() for p in block.parameters()}
    inside = {name for name, p in edit_model.network.named_parameters() if id(p) in inner}
    waiting = swap.waiting if swap else ()
    network = parallel.wrap(edit_model.network, edit_model.blocks(), dtype, waiting, edit_model.exact())
    trained = {name: p for name, p in edit_model.network.named_parameters() if p.requires_grad}
    return ReadyNetwork(network, trained, {id(trained[name]) for name in inside & set(trained)})


UNTRIED = ("cpu",)  # devices on which the largest batch is not tried first: main memory is seldom short
LESS = 'with `checkpointing` "full", or with fewer `batch_tokens` and more `microbatches`'


@dataclass(frozen=True)
class Due:
    """What there is to do after a step."""

    log: bool
    save: bool  # a checkpoint
    measure: bool  # the held-out loss
    preview: bool

    @classmethod
    def after(cls, recipe: Recipe, done: int) -> Due:
        """done: steps so far."""

        def every(steps: int) -> bool:
            return bool(steps) and done % steps == 0

        last, kept = done == recipe.steps, every(recipe.keep_every)
        saves = kept or every(recipe.checkpoint_every)
        return cls(
            log=saves or last or every(recipe.log_every),
            save=saves and not last,  # the last one is written with the finished model
            measure=kept or last or every(recipe.heldout_every or recipe.checkpoint_every),
            preview=every(recipe.sample_every),
        )


@dataclass(frozen=True)
class Learned:
    """What a step came to."""

    losses: list[Losses]  # of this process's batches
    loss: float  # the mean over all rows of the step
    norm: float  # of the gradient, before clipping


@dataclass(frozen=True)
class Run:
    """The loop's parts."""

    sampler: BucketSampler
    model: TrainedModel
    objective: Objective
    state: TrainState
    keeper: Keeper
    log: Log
    monitor: Monitor
    around: Around

    def loop(self, loader: Loader, received: list[int], on_step: Callable[[StepReport], None] | None) -> None:
        """Every step that is left; `received`: see signals()."""
        recipe, parallel, state, keeper, log = self.model.recipe, self.model.parallel, self.state, self.keeper, self.log
        self.model.network.train()  # adapters may drop out
        with memory_counted(lambda: f"step {state.step + 1}", LESS), loader, contextlib.ExitStack() as stack:
            due = Due.after(recipe, state.step)
            if not self.monitor.begin(due.measure, due.preview, received):
                self.leave(received)
            if parallel.device.type not in UNTRIED and state.step < recipe.steps:
                self.try_largest(loader)
            for work in stack.enter_context(contextlib.closing(self.objective.work(loader, self.model, self.around))):
                factor = rate_factor(recipe, work.step)
                learned = self.update(work, factor)
                report = log.add(state.step, learned.loss, learned.norm, factor, work, learned.losses,
                                 self.model.edit_model, loader.waited)  # fmt: skip
                stop = self.heed(received, loader)
                due = Due.after(recipe, state.step)
                if due.log or stop:
                    log.write(keeper.saver.seconds)
                if due.save or stop:
                    keeper.save()
                if not stop:
                    keeper.keep(log.rows)
                    stop = not self.monitor.show(due.measure, due.preview, received)
                if on_step:
                    on_step(report)
                if stop:
                    self.leave(received)

    def leave(self, received: list[int]) -> None:
        """Save and raise Left. The time to leave may be short: what else is due is done when the run goes on."""
        self.log.write(self.keeper.saver.seconds)
        if self.state.step > self.log.first:
            self.keeper.save()
        self.keeper.wait()
        raise Left(max(max(each, default=0) for each in self.model.parallel.gather(received)))

    def heed(self, received: list[int], loader: Loader) -> bool:
        """What has happened to any process meanwhile; returns whether one of them is to leave.

        Raises NotWritten where the last checkpoint could not be written, TooManyFailed.
        """
        news = [len(received), self.keeper.saver.failed, len(loader.rejects.new)]
        told, failed, unusable = self.model.parallel.sum(torch.tensor(news, dtype=torch.float64))
        if failed:
            self.keeper.wait()
        if unusable:
            self.monitor.check_rejects()
        return bool(told)

    def try_largest(self, loader: Loader) -> None:
        """The forward and backward pass of the batch that needs most memory; nothing is learnt from it.

        What does not fit is known before the first step, and not after hours.
        """
        draws = self.sampler.largest()
        batch = loader.load(self.state.step, len(draws), 0, draws)
        work = Step(self.state.step, len(draws) * self.model.parallel.world, [batch])
        forward_backward(self.objective, dataclasses.replace(self.model, trying=True), work, 1.0)
        for parameter in self.state.trained.values():
            parameter.grad = None

    def update(self, work: Step, factor: float) -> Learned:
        """One step; `factor` is the learning rate's. Raises Diverged."""
        recipe, parallel, state = self.model.recipe, self.model.parallel, self.state
        if not work.rows:  # there is nothing to learn from
            with state.changing():
                state.step, state.epoch = work.step + 1, max(state.epoch, work.epoch)
                self.objective.stepped(self.model, state.step)
            return Learned([], state.level, 0.0)
        # The mean loss over the step's rows, and its gradient.
        losses = forward_backward(self.objective, self.model, work, factor)
        norm = float(full(torch.nn.utils.clip_grad_norm_(state.trained.values(), recipe.max_grad_norm)))
        shared = parallel.sum(torch.tensor([sum(each.rows.sum().item() for each in losses)], dtype=torch.float64))
        loss = shared.item() / work.rows
        self.check(work, losses, loss, norm)
        with state.changing():
            state.level = loss if work.step == 0 else 0.98 * state.level + 0.02 * loss
            state.optimizers.step(factor)
            state.step, state.epoch = work.step + 1, max(state.epoch, work.epoch)
            state.average.update(max(1, state.step - int(recipe.ema_from * recipe.steps)))
            counted = state.step > 0.9 * recipe.steps
            state.tail = (state.tail[0] + loss, state.tail[1] + 1) if counted else (0.0, 0)
            self.objective.stepped(self.model, state.step)
        return Learned(losses, loss, norm)

    def check(self, work: Step, losses: list[Losses], loss: float, norm: float) -> None:
        """Raises Diverged for a loss that is not finite, or that jumps."""
        level, spike = self.state.level, self.model.recipe.loss_spike_factor
        jumped = spike and work.step >= 20 and loss > spike * level
        if math.isfinite(loss + norm) and not jumped:
            return
        rows = [row.id for batch in work.batches for row in batch.rows]
        mine = list(zip(rows, [value for each in losses for value in each.rows.tolist()]))
        every = [pair for pairs in self.model.parallel.gather(mine) for pair in pairs]
        bad = [identity for identity, value in every if not math.isfinite(value)]
        others = [value for _, value in every if math.isfinite(value)]
        # where the other rows are learned as before, it is not the weights
        sound = bool(bad and others) and sum(others) / len(others) <= (spike or 2.0) * level
        where = "from here, without them or with other batches" if sound else "from the last checkpoint"
        raise Diverged(
            f"step {work.step + 1}: loss {loss:.4g} (mean so far {level:.4g}), gradient norm {norm:.4g}; "
            f"rows {' '.join(bad if sound else [identity for identity, _ in every])}",
            f"look at these rows, or run the same command with lower learning rates: it goes on {where}",
            sound,
        )


def forward_backward(objective: Objective, model: TrainedModel, work: Step, factor: float) -> list[Losses]:
    """The losses of this process's batches; the gradient of the step's mean loss is left in the parameters."""
    parallel, made = model.parallel, []
    # Where other processes have a batch more, this one goes through the network as often, and what it makes counts 0.
    every = [*work.batches, *work.spare]
    for number, batch in enumerate(every):
        # what adapters drop is a function of (seed, step, batch) too
        place = number * parallel.world + parallel.rank
        torch.manual_seed(generator(model.recipe.seed, work.step, 3, place).initial_seed())
        with parallel.last_of_step(model.network, number == len(every) - 1):
            losses = objective.losses(model, batch.to(parallel.device), work.step, factor)
            # gradients are averaged over processes, and the loss is the mean over all their rows
            share = parallel.world / work.rows if number < len(work.batches) else 0.0
            (losses.rows.sum() * share).backward()
        made.append(Losses(losses.rows.detach(), losses.numbers))
    # the only place that waits for the device
    return [Losses(one.rows.cpu(), {name: value.cpu() for name, value in one.numbers.items()})
            for one in made[: len(work.batches)]]  # fmt: skip


@contextlib.contextmanager
def memory_counted(where: Callable[[], str], hint: str) -> Iterator[None]:
    """Raises EditError where the block runs out of memory; `where` says what it was at."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not full or isinstance(error, EditError):
            raise
        raise EditError(
            f"{where()}: out of memory: {describe(error)}", hint=f"the same command goes on {hint}"
        ) from error


def shrink_frozen(edit_model: EditModel, recipe: Recipe, parallel: Parallel) -> BlockSwap | None:
    """What the recipe says of weights that do not train: fewer bits, a place in the main memory. Raises UsageError."""
    check_shared(recipe, parallel.mode)
    if recipe.quantize:
        quantize_frozen(edit_model.blocks(), recipe.quantize, parallel.device)
    return BlockSwap(edit_model.blocks(), recipe.block_swap, parallel.device) if recipe.block_swap else None


ATTENTION = ("_native_cudnn", "native")  # "auto" takes the first that works: cuDNN's is the fastest on Hopper


def choose_attention(
    edit_model: EditModel, name: str, device: torch.device, dtype: torch.dtype, sampler: BucketSampler
) -> str:
    """Choose a backend of attention; returns which. "auto" is the fastest that works, on a CPU torch's own choice.

    Raises UsageError for one that is not there, takes no masks (texts of a batch may differ in length), or whose
    gradients, at the lengths of this run, are not finite. Only torch's own: others have no backward pass, or do not
    take the precisions that autocast mixes.
    """
    if name != "auto" and name.lower() != "native" and not name.lower().startswith("_native"):
        raise UsageError(f"`attention`: {name} does not train", hint="auto, native, _native_cudnn, _native_efficient")
    tokens = sampler.tokens()
    lengths = sorted({tokens + 77, tokens + 512})  # and a text
    names = [name] if name != "auto" else ["native"] if device.type == "cpu" else list(ATTENTION)
    for last, tried in [(each == names[-1], each) for each in names]:
        try:
            if set_attention(edit_model.network.transformer, tried, device, dtype, lengths, backward=True):
                raise UsageError(f"`attention`: {tried} takes no masks, which texts of different lengths need")
            return tried
        except UsageError:
            if last:
                raise
    raise AssertionError("the last one returns or raises")


BEFOREHAND = signal.SIGUSR1  # what batch systems are asked to send before a job's time is over


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """A list that SIGINT, SIGTERM and SIGUSR1 are put into; the second SIGINT or SIGTERM ends the process by itself."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def handle(signum: int, frame: Any) -> None:
        if signum != BEFOREHAND and any(each != BEFOREHAND for each in received):
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        received.append(signum)

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM, BEFOREHAND)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
