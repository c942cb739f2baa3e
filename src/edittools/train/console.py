"""Training as a person sees it: a bar with the loss, and a summary line."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edittools.errors import EditError, Interrupted, UsageError
from edittools.nets import from_scratch, load_edit_model
from edittools.nets.base import EditModel
from edittools.record import TASKS
from edittools.stream.source import Source
from edittools.train import checkpoint
from edittools.train.bucket_sampler import BucketSampler, text_shares
from edittools.train.config import Recipe
from edittools.train.features import Encoder, FeatureStore, Keys, Stored
from edittools.train.folder import (
    Data,
    RunEnd,
    check_branch,
    check_run,
    flat_settings,
    kept_words,
    open_run,
    refuse_to_remove,
    write_json,
)
from edittools.train.frozen import check_shared
from edittools.train.heldout import HeldOut, heldout_recipe, value
from edittools.train.laid import module_once_a_machine
from edittools.train.log import StepReport, read_lines, say
from edittools.train.loop import memory_counted, train
from edittools.train.mapped import once_a_machine
from edittools.train.mixture import drawn
from edittools.train.objectives import load_objective
from edittools.train.origin import check_references, is_run, settle
from edittools.train.parallel import Parallel, start
from edittools.train.rejects import HELD_OUT, Rejects
from edittools.train.rescue import Rescue
from edittools.train.rewards import GroupRewards
from edittools.train.rows import CAPTIONS, ShardRows, check_kinds, facts, wording_column
from edittools.train.settings import TrainConfig
from edittools.weights.quiet import disable_progress_bars

LOADERS = 4  # threads that read images, or stored features
_LINE_EVERY = 60.0  # seconds between lines where standard error is not a terminal


@dataclass(frozen=True)
class TrainOptions:
    """Options of one call beside the recipe."""

    config: TrainConfig
    output: str = ""
    heldout: Source | None = None  # what config.heldout names
    track: tuple[str, ...] = ()
    threads: int | None = None
    overwrite: bool = False
    max_errors: str = "1%"
    reads: tuple[str, ...] = ()  # the inputs, and the files of the recipe and of --config where there are some
    quiet: bool = False


def open_rows(recipe: Recipe, source: Source, max_pixels: int, max_errors: str = "0", kind: str = "") -> Any:
    """The rows of a source that a recipe can learn from: ShardRows, or where it learns replies ReplyRows.

    Raises UsageError for instruction styles that it does not have, and for weights of tasks that are neither canonical
    nor there, TooManyFailed where more rows than `max_errors` cannot be used.
    """
    if recipe.replies:
        from edittools.train.replies import ReplyRows

        return ReplyRows(recipe, source, max_pixels, Rejects(max_errors, kind))
    for style, share in recipe.instruction_styles.items():
        if share and wording_column(style) not in source.schema.names:
            raise UsageError(f"`instruction_styles`: {style}: the input has no column `{wording_column(style)}`")
    check_kinds(recipe.captions, source.schema.names)
    columns = {each: wording_column(each) for each in text_shares(recipe, True)}
    columns |= {each: CAPTIONS.get(each, each) for each in text_shares(recipe, False)}
    languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
    rewards = GroupRewards.of_recipe(recipe) if recipe.rewarded else None
    rows = ShardRows(source, columns, languages, recipe.balance, max_pixels, masks=recipe.mask_weight != 1,
                     faces=bool(recipe.consistency), pairs=recipe.pairs, rewards=rewards,
                     prompts=recipe.rollouts, rejects=Rejects(max_errors, kind))  # fmt: skip
    odd = recipe.task_weights.keys() - {*TASKS}
    if unknown := odd and odd - {task for (task,) in facts(rows, "task")}:
        raise UsageError(f"`task_weights`: no row is of task {', '.join(sorted(unknown))}")
    return rows


def wants_references(recipe: Recipe, edit_model: EditModel) -> bool:
    """Are the references' latents used: by the network, or to find the edited region?"""
    return edit_model.sees_references or recipe.region_weight


def train_with_progress(recipe: Recipe, source: Source, options: TrainOptions) -> None:
    """Train, and tell how it goes on standard error."""
    disable_progress_bars("transformers", "diffusers")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    adapters = bool(recipe.model.get("lora"))
    parallel = start(
        options.config.parallel, options.config.device, options.config.processes, options.config.replicas, adapters
    )
    try:
        check_shared(recipe, parallel.mode)
        more = "on more devices (`edit train -n --budget` tells what it takes)"
        with Rescue(parallel).ready() as rescue, memory_counted(lambda: "beside the steps", more):
            _train(recipe, source, options, parallel, rescue)
    except EditError as error:
        if parallel.told:
            raise click.exceptions.Exit(error.status) from error
        raise
    except Interrupted as stop:
        saved = checkpoint.newest(Path(options.output)) if parallel.is_main else None
        if saved is not None:
            name = signal.Signals(stop.signum).name
            say(f"{name}: saved at step {checkpoint.step_of(saved)}; the same command goes on from there")
        raise
    finally:
        parallel.close()


def _train(recipe: Recipe, source: Source, options: TrainOptions, parallel: Parallel, rescue: Rescue) -> None:
    quiet = options.quiet or not parallel.is_main
    recipe = settle(recipe)
    rows, held_rows = once_a_machine(parallel, lambda: open_all(recipe, source, options))
    branch = None if options.config.resume_from is None else checkpoint.find(options.config.resume_from)
    if branch is not None:
        check_branch(branch, recipe)
    if options.overwrite:
        refuse_to_remove(options.output, _reads(recipe, rows, options))
    data = Data.of(rows, "" if options.config.feature_dir is None else ", stored features")  # batched otherwise
    run = (options.output, recipe, data, options.overwrite)
    finished = parallel.on_main(lambda: check_run(*run))
    if finished:
        if not quiet:
            say(f"finished before; {finished.steps} steps, loss {finished.loss:.4f}")
        return
    edit_model = load_trained(recipe, rows, options, branch, parallel)
    sampler, given, heldout = prepared_rows(recipe, rows, held_rows, edit_model, options, parallel)
    if not quiet:
        describe(recipe, sampler, rows, held_rows, parallel)
    # Only now, so that a mistake leaves no folder that the next try is refused.
    rescue.hold(Path(options.output))
    parallel.on_main(lambda: open_run(*run, branch, held=True))
    if (held := options.config.heldout) is not None and parallel.is_main:  # for `edit eval checkpoints`
        place = held if "://" in held else str(Path(held).resolve())
        write_json(Path(options.output, "heldout.json"), {"input": [place]})
    with progress(recipe.steps, quiet) as tell:
        outcome = train(
            recipe,
            sampler,
            edit_model,
            given,
            options.output,
            branch=branch,
            rejects=rows.rejects,
            parallel=parallel,
            loaders=LOADERS,
            trackers=list(options.track),
            heldout=heldout,
            rescue=rescue,
            on_start=None if quiet else say,
            on_step=tell,
        )
    if not quiet:
        say(summary(outcome, read_lines(Path(options.output, "heldout.jsonl")) if heldout is not None else []))


def prepared_rows(
    recipe: Recipe, rows: Any, held_rows: Any, edit_model: EditModel, options: TrainOptions, parallel: Parallel
) -> tuple[BucketSampler, Any, HeldOut | None]:
    """The sampler of the rows, what gives their features, and those that are held out, if any."""
    heldout: HeldOut | None = None
    if recipe.replies:
        from edittools.train import replies

        load_objective(recipe, edit_model, rows, parallel.device)  # which refuses another architecture
        model: Any = edit_model
        model.bound_images(*(side**2 for side in recipe.resolution))
        if held_rows is not None:
            heldout = replies.HeldOutReplies(recipe, held_rows, model, held_rows.rejects)
        return replies.ReplySampler(recipe, rows, model, rows.rejects), replies.ReplyFeatures(model, rows), heldout
    features = FeatureSource(recipe, edit_model, options, parallel)
    sampler = BucketSampler(recipe, rows, edit_model.patch, edit_model.multiple, edit_model.one_row, rows.rejects)
    given = features.of(rows)
    sampler.lengths = check_stored(given, sampler)
    if held_rows is not None:
        heldout = HeldOut(recipe, held_rows, edit_model, features.of(held_rows), held_rows.rejects)
        check_stored(heldout.features, heldout.sampler)
    return sampler, given, heldout


def load_trained(
    recipe: Recipe, rows: ShardRows, options: TrainOptions, branch: Path | None, parallel: Parallel
) -> EditModel:
    """The architecture, with its encoders where something needs them."""
    disable_progress_bars("transformers", "diffusers")
    return load_edit_model(
        recipe.system,
        recipe.model,
        encoders=options.config.feature_dir is None
        or bool(recipe.consistency or recipe.sample_every or recipe.rollouts),  # which make images
        seed=recipe.seed,
        texts=lambda: ([] if options.overwrite else kept_words(options.output, branch)) or rows.texts(),
        device=str(parallel.device),
        dtype=options.config.encoder_dtype,
        once=lambda make: module_once_a_machine(parallel, make),
    )


class FeatureSource:
    """Where the features of rows come from: a store, or the frozen encoders."""

    def __init__(self, recipe: Recipe, edit_model: EditModel, options: TrainOptions, parallel: Parallel) -> None:
        self.edit_model, self.device, self.dtype = edit_model, parallel.device, options.config.encoder_dtype
        self.references = wants_references(recipe, edit_model)
        self.store: FeatureStore | None = None
        if options.config.feature_dir is not None:
            self.store = once_a_machine(parallel, lambda: FeatureStore(str(options.config.feature_dir)))

    def of(self, rows: ShardRows) -> Encoder | Stored:
        if self.store is None:
            return Encoder(self.edit_model, rows, self.references, self.device)
        keys = Keys(self.edit_model.encoding(), rows, self.store.contents, self.dtype, self.references)
        return Stored(self.store, keys)


def check_stored(features: Any, sampler: BucketSampler) -> np.ndarray | None:
    """Where features are stored, the tokens of every sample's text. Raises EditError where any is missing."""
    if not isinstance(features, Stored):
        return None
    features.check(sampler.samples)
    return features.lengths(sampler.samples)


def summary(outcome: RunEnd, heldout: list[dict[str, Any]]) -> str:
    """A finished run in a line; `heldout`: what heldout.jsonl says of it."""
    resumed = f", resumed from step {outcome.resumed_from}" if outcome.resumed_from else ""
    held = f", held-out {value(heldout[-1]):.4f} (at the start {value(heldout[0]):.4f})" if heldout else ""
    return (
        f"{outcome.steps} steps, loss {outcome.loss:.4f}{held}; {outcome.seconds:.0f} s, "
        f"data-wait {outcome.wait_share:.1%}{resumed}"
    )


def _reads(recipe: Recipe, rows: ShardRows, options: TrainOptions) -> dict[str, str]:
    """Paths that a run reads, and the option or key that names each."""
    named = {str(value): f"`{name}`" for name, value in flat_settings({"model": recipe.model}).items()}
    named |= {recipe.consistency_encoder: "`consistency_encoder`", options.config.feature_dir or "": "--feature-dir"}
    named |= {options.config.resume_from or "": "--resume-from", options.config.heldout or "": "--heldout"}
    images = dict.fromkeys(rows.files(), "images of the input")
    return {**images, **dict.fromkeys(options.reads, "the input"), **named}


def open_all(recipe: Recipe, source: Source, options: TrainOptions) -> tuple[Any, Any]:
    """The rows to learn from and those of --heldout, all of which the model can take."""
    rows = open_rows(recipe, source, options.config.max_pixels, options.max_errors)
    check_references(recipe, rows)
    return rows, open_heldout(recipe, options)


def open_heldout(recipe: Recipe, options: TrainOptions) -> ShardRows | None:
    """The rows of --heldout, where it is given; what is wrong with them is said to be of --heldout."""
    if options.heldout is None:
        return None
    try:
        rows = open_rows(
            recipe if recipe.replies else heldout_recipe(recipe),
            options.heldout,
            options.config.max_pixels,
            options.max_errors,
            HELD_OUT,
        )
        check_references(recipe, rows)
        return rows
    except EditError as error:
        raise type(error)(f"--heldout: {error}", error.hint) from error


def tell_budget(recipe: Recipe, source: Source | None, options: TrainOptions) -> list[str]:
    """The needs of a run, in lines; `processes` and `parallel` say how many devices share it, and how."""
    import os

    from edittools.train import budget

    disable_progress_bars("transformers", "diffusers")
    if recipe.replies:
        raise UsageError("--budget: not of a vision-language model, whose messages differ in length")
    recipe = settle(recipe) if is_run(recipe) else recipe
    world = options.config.processes or int(os.environ.get("WORLD_SIZE", "1"))
    mode = options.config.parallel
    if mode == "auto":
        mode = "single" if world == 1 else "ddp" if recipe.model.get("lora") else "fsdp"
    check_shared(recipe, mode)
    shards = world // (options.config.replicas or 1) if mode in ("fsdp", "hsdp") else 1
    rows = sampler = None
    texts: Iterable[str] = ()
    if source is not None:
        rows = open_rows(recipe, source, options.config.max_pixels)
        texts = {word for text in rows.texts() for word in text.split()}  # a vocabulary is of these
        shape = load_edit_model(recipe.system, recipe.model, encoders=False, network=from_scratch(recipe.system),
                            texts=lambda: texts)  # fmt: skip
        sampler = BucketSampler(recipe, rows, shape.patch, shape.multiple, shape.one_row)
    weights = str(recipe.model.get("weights", ""))
    beside = (
        0.0
        if options.config.feature_dir or not weights
        else budget.encoder_bytes(weights, options.config.encoder_dtype)
    )
    measured = functools.partial(
        budget.measure, sampler=sampler, texts=texts, mode=mode, world=world, shards=max(1, shards), encoders=beside
    )
    found = measured(recipe)
    count = None if rows is None else len(rows)
    return [*budget.lines(recipe, found, world, count), *budget.plans(recipe, found, mode, measured)]


def describe(
    recipe: Recipe, sampler: BucketSampler, rows: ShardRows, held: ShardRows | None, parallel: Parallel
) -> None:
    """Print rows, steps, batches and devices of the run that begins; `held`: the rows that are held out."""
    if held is not None:
        theirs = {*facts(held, "id")}
        if both := sum(each in theirs for each in facts(rows, "id")):
            say(f"{both} of {len(held)} held-out rows are trained on too")
    use = sampler.use()
    skipped = "".join(f", {count} rows {why} left out" for why, count in sorted(rows.left_out.items()))
    if rows.rejects:
        say(f"{len(rows.rejects)} rows cannot be used, see rejects.jsonl: {rows.rejects.summary()}")
    if rows.captioned:
        say(f"{rows.captioned} edits have no instruction: their caption is the text")
    several = f" on {parallel.world} processes ({parallel.mode})" if parallel.world > 1 else ""
    say(f"{len(rows)} rows, {recipe.steps} steps of {recipe.microbatches} batches{several}{skipped}")
    idle = -recipe.microbatches % parallel.world
    if idle:
        share = idle / (recipe.microbatches + idle)
        say(f"{recipe.microbatches} batches, {parallel.world} processes: {share:.0%} of their time counts nothing")
    say(
        f"{use.buckets} buckets; {1 - use.unused:.1%} of the token budget used, {use.cropped:.1%} of the pixels "
        f"cropped, {use.waiting:.1%} of an epoch's rows wait for the next"
    )
    if shares := drawn(recipe, rows, sampler.weights):
        say("drawn: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))


@contextlib.contextmanager
def progress(steps: int, quiet: bool) -> Iterator[Any]:
    """A function that takes StepReports and shows them: a bar on a terminal, a line a minute elsewhere."""
    bar, lined = None, time.monotonic()
    if not quiet and sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=steps, unit="step", desc="train", file=sys.stderr, leave=False)

    def tell(report: StepReport) -> None:
        nonlocal lined
        mfu = "" if report.mfu is None else f", MFU {report.mfu:.0%}"
        if bar is not None:
            bar.n = report.step
            speed = f"{report.samples_per_s:.3g}"
            bar.set_postfix(loss=f"{report.loss:.4f}", samples_s=speed, wait=f"{report.wait_share:.0%}")
        elif not quiet and time.monotonic() - lined >= _LINE_EVERY:
            lined = time.monotonic()
            say(
                f"step {report.step} of {report.steps}, loss {report.loss:.4f}, {report.samples_per_s:.3g} samples/s, "
                f"{report.tflops:.3g} TFLOP/s{mfu}, data-wait {report.wait_share:.1%}"
            )

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()
