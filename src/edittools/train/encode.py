"""`edit train --precompute`: store what the frozen encoders say, by one process or by one on each GPU of a machine."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

import torch

from edittools.errors import UsageError
from edittools.nets import load_edit_model
from edittools.stream.source import Source
from edittools.train import reference
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.config import Recipe
from edittools.train.console import (
    LOADERS,
    FeatureSource,
    TrainOptions,
    check_stored,
    load_trained,
    open_all,
    wants_references,
)
from edittools.train.data import Loader, TrainBatch
from edittools.train.features import Encoder, FeatureStore, FeatureWriter, Keys, check_store, precompute
from edittools.train.heldout import heldout_recipe
from edittools.train.log import say
from edittools.train.loop import prepare
from edittools.train.objectives import TrainedModel, load_objective
from edittools.train.origin import settle
from edittools.train.parallel import start
from edittools.train.rejects import HELD_OUT, Rejects
from edittools.train.rows import ShardRows
from edittools.weights.quiet import disable_progress_bars
from edittools.workers import Worker, Workers, devices

_TELL = 0.25  # seconds after which a process says how far it is


@dataclasses.dataclass
class Told:
    """Progress of a process since it was asked last."""

    samples: int
    features: int
    rejected: list[tuple[str, str]]  # ids of rows that cannot be used, and why
    held: list[tuple[str, str]]  # likewise, of those held out
    more: bool


def of_part(samples: Sequence[TrainSample], rows: int, number: int, of: int) -> Iterator[TrainSample]:
    """The samples of the rows ≡ number modulo `of`, each made when it is its turn.

    Rows, not samples, are shared out, and the variants of a row come together: they have its images in common.
    """
    for row in range(number, rows, of):
        yield from (samples[k] for k in range(row, len(samples), rows))


class EncodePart:
    """The rows that one process encodes: of all those with row number ≡ I modulo N, for a task (I, N)."""

    def __init__(
        self, recipe: Recipe, rows: ShardRows, held: ShardRows | None, options: TrainOptions, task: tuple[int, int]
    ) -> None:
        disable_progress_bars("transformers", "diffusers")
        edit_model = load_edit_model(
            recipe.system, recipe.model, network=False, device=options.config.device, dtype=options.config.encoder_dtype
        )
        if edit_model.autoencoder is None:
            raise UsageError(f"the architecture `{recipe.system}` has no frozen encoders: nothing to precompute")
        store = FeatureStore(options.output)
        writer = FeatureWriter(options.output, getattr(torch, options.config.encoder_dtype))
        latents = wants_references(recipe, edit_model)
        number, of = task
        self.work: list[tuple[Any, ...]] = []
        self.samples = 0
        for some, like in [(rows, recipe), *([(held, heldout_recipe(recipe))] if held is not None else [])]:
            sampler = BucketSampler(like, some, edit_model.patch, edit_model.multiple, edit_model.one_row, some.rejects)
            keys = Keys(edit_model.encoding(), some, store.contents, options.config.encoder_dtype, latents)
            mine = of_part(sampler.samples, len(some), number, of)
            self.samples += len(sampler.samples) // max(1, len(some)) * len(range(number, len(some), of))
            # nothing is asked for twice
            encoder = Encoder(edit_model, some, device=torch.device(options.config.device), keep=0)
            self.work.append((encoder, keys, mine, store, writer, some.rejects, LOADERS))
        self.rejects, self.held = rows.rejects, held.rejects if held is not None else Rejects()
        self.rows = len(rows) + (len(held) if held is not None else 0)
        self.most = len(rows)
        self._steps = self._all()

    def _all(self) -> Iterator[int]:
        for each in self.work:
            yield from precompute(*each)

    def size(self) -> tuple[int, int, int]:
        """Samples of this part; rows of the whole; and how many of them are trained on."""
        return self.samples, self.rows, self.most

    def some(self, seconds: float = _TELL) -> Told:
        """Go on for about so long. Raises TooManyFailed."""
        end, told = time.monotonic() + seconds, Told(0, 0, [], [], True)
        while told.more and time.monotonic() < end:
            added = next(self._steps, None)
            told.more = added is not None
            told.samples, told.features = told.samples + told.more, told.features + (added or 0)
        told.rejected, told.held = self.rejects.take(), self.held.take()
        return told

    def finish(self) -> None:
        """Store what is done."""
        self._steps.close()  # type: ignore[attr-defined]


def _open_part(
    recipe: Recipe, rows: ShardRows, held: ShardRows | None, options: TrainOptions, task: tuple[int, int],
    threads: int | None,
) -> EncodePart:  # fmt: skip
    if threads is not None:
        torch.set_num_threads(threads)
    return EncodePart(recipe, rows, held, options, task)


@dataclasses.dataclass
class _Display:
    """One bar and one summary, however many processes there are."""

    options: TrainOptions
    total: int
    rejects: Rejects
    held: Rejects  # of rows held out
    features: int = 0
    bar: Any = None

    def tell(self, told: Told) -> None:
        self.features += told.features
        if self.bar is not None:
            self.bar.update(told.samples)
        for rejects, found in ((self.rejects, told.rejected), (self.held, told.held)):
            for identity, reason in found:
                rejects.add(identity, reason)
            rejects.check()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        if not self.options.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit="sample", desc="precompute", file=sys.stderr, leave=False)
        try:
            yield
        finally:
            if self.bar is not None:
                self.bar.close()


def precompute_with_progress(
    recipe: Recipe, source: Source, options: TrainOptions, task: tuple[int, int] | None
) -> None:
    """Store what the frozen encoders say about the rows that training will draw; of a part I of N with `task`."""
    began, count = time.monotonic(), options.config.processes or 1
    number, of = task or (0, 1)
    check_store(options.output)
    recipe = settle(recipe)
    rows, held = open_all(recipe, source, options)
    options = dataclasses.replace(options, heldout=None)
    if count == 1:
        part = EncodePart(recipe, rows, held, options, (number, of))
        sizes = [part.size()]
        display = _display(options, sizes)
        with display.shown():
            _follow(part.some, part.finish, display.tell, threading.Event())
    else:
        names = devices(options.config.device, count)
        threads = max(1, torch.get_num_threads() // count) if options.config.device == "cpu" else None
        configs = [dataclasses.replace(options.config, device=name) for name in names]
        given = [
            (recipe, rows, held, dataclasses.replace(options, config=config), (number + of * k, of * count), threads)
            for k, config in enumerate(configs)
        ]
        with Workers(_open_part, given, [f"{name} (process {k})" for k, name in enumerate(names)]) as workers:
            sizes = [worker.call("size") for worker in workers.all]
            display = _display(options, sizes)
            with display.shown():
                follow_all(workers.all, display.tell)
    if not options.quiet:
        seconds = time.monotonic() - began
        say(
            f"{display.total} samples of {sizes[0][1]} rows: {display.features} features computed; {seconds:.0f} s; "
            f"{options.output}"
        )
        for rejects in (display.rejects, display.held):
            for identity, reason in rejects.take():
                say(f"{rejects.kind} row {identity} cannot be used: {reason}".lstrip())


def precompute_reference_with_progress(
    recipe: Recipe, source: Source, options: TrainOptions, task: tuple[int, int] | None
) -> None:
    """Store what the reference says of the pairs of every step; of a part I of N of the steps with `task`."""
    began = time.monotonic()
    if "reference_values" not in recipe.of_objective():
        raise UsageError(f"--precompute-reference: the objective `{recipe.objective}` has no such values")
    settings = {**recipe.objective_settings, "reference_values": ""}
    recipe = settle(dataclasses.replace(recipe, objective_settings=settings))
    if not recipe.model.get("weights"):
        raise UsageError("--precompute-reference: the reference is the model that the run begins with, `model.weights`")
    rows, _ = open_all(recipe, source, dataclasses.replace(options, heldout=None))
    alone = start("single", options.config.device)
    edit_model = load_trained(recipe, rows, options, None, alone)
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple, edit_model.one_row, rows.rejects)
    features = FeatureSource(recipe, edit_model, options, alone).of(rows)
    sampler.lengths = check_stored(features, sampler)
    objective = load_objective(recipe, edit_model, rows, alone.device)
    model = TrainedModel(recipe, edit_model, prepare(recipe, sampler, edit_model, alone, None).network, alone)
    model.network.eval()

    def loader(first: int) -> Loader:
        return Loader(recipe, sampler, edit_model, features, first=first, threads=LOADERS, rejects=rows.rejects)

    def errors(batch: TrainBatch) -> Any:
        return objective.errors(model, batch.to(alone.device))  # type: ignore[attr-defined]

    steps = 0
    for done in reference.store(recipe, rows, errors, loader, Path(options.output), task or (0, 1)):
        steps += done
        if not options.quiet:
            say(f"reference values of {steps} steps; {time.monotonic() - began:.0f} s; {options.output}")


def _display(options: TrainOptions, sizes: list[tuple[int, int, int]]) -> _Display:
    rejects, held = Rejects(options.max_errors), Rejects(options.max_errors, HELD_OUT)
    _, every, rejects.rows = sizes[0]
    held.rows = every - rejects.rows
    return _Display(options, sum(samples for samples, _, _ in sizes), rejects, held)


def _follow(
    some: Callable[[], Told], finish: Callable[[], None], tell: Callable[[Told], None], stopped: threading.Event
) -> None:
    try:
        more = True
        while more and not stopped.is_set():
            told = some()
            tell(told)
            more = told.more
    finally:  # what is done stays done, whatever stops the rest
        finish()


def follow_all(workers: list[Worker], tell: Callable[[Told], None]) -> None:
    """Until all have done their part; where one fails, or at Ctrl-C, the others store what they have."""
    stopped, lock = threading.Event(), threading.Lock()

    def locked(told: Told) -> None:
        with lock:
            tell(told)

    def follow(worker: Worker) -> None:
        _follow(lambda: worker.call("some"), lambda: worker.call("finish"), locked, stopped)

    with ThreadPoolExecutor(len(workers)) as pool:
        futures: list[Future[None]] = []
        try:
            for worker in workers:
                futures.append(pool.submit(follow, worker))
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            wait(futures)
            raise
