"""Training as a person sees it: a bar with the loss, and a summary line."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.models.quiet import no_bars
from edittools.models.systems import load_system
from edittools.record import TASKS
from edittools.stream.source import Source
from edittools.train import checkpoint
from edittools.train.config import Recipe
from edittools.train.features import Encoder, Keys, Store, Stored, Writer, precompute
from edittools.train.folder import (
    Data,
    check_branch,
    check_run,
    flat_settings,
    kept_words,
    open_run,
    refuse_own_input,
    write_json,
)
from edittools.train.heldout import HeldOut, heldout_recipe, value
from edittools.train.log import StepReport, read_lines, say
from edittools.train.loop import train
from edittools.train.mixture import drawn
from edittools.train.origin import check_references, settle
from edittools.train.parallel import Parallel, start
from edittools.train.plan import Plan, text_shares
from edittools.train.rejects import Rejects
from edittools.train.rows import CAPTIONS, ShardRows, check_kinds, wording_column

LOADERS = 4  # threads that read pictures, or stored features
_LINE_EVERY = 60.0  # seconds between lines where standard error is not a terminal


@dataclass(frozen=True)
class TrainOptions:
    """What is asked of one call beside the recipe."""

    output: str
    cache: str | None = None
    device: str = "cpu"
    encoder_dtype: str = "bfloat16"
    parallel: str = "auto"
    processes: int | None = None
    replicas: int | None = None
    threads: int | None = None
    track: tuple[str, ...] = ()
    heldout: Source | None = None
    heldout_path: str = ""
    overwrite: bool = False
    resume_from: str | None = None
    max_errors: str = "1%"
    reads: tuple[str, ...] = ()  # the inputs, and the recipe where it is a file
    quiet: bool = False
    max_pixels: int = 0


def open_rows(recipe: Recipe, source: Source, max_pixels: int, max_errors: str = "0") -> ShardRows:
    """The rows of a source that a recipe can learn from.

    Raises UsageError for wordings that it does not have, and for weights of tasks that are neither canonical nor there,
    TooManyFailed where more rows than `max_errors` cannot be used.
    """
    for kind, share in recipe.wordings.items():
        if share and wording_column(kind) not in source.schema.names:
            raise UsageError(f"`wordings`: {kind}: the input has no column `{wording_column(kind)}`")
    check_kinds(recipe.captions, source.schema.names)
    columns = {kind: wording_column(kind) for kind in text_shares(recipe, True)}
    columns |= {kind: CAPTIONS.get(kind, kind) for kind in text_shares(recipe, False)}
    languages = ("en", "zh") if recipe.language == "both" else (recipe.language,)
    rows = ShardRows(source, columns, languages, recipe.balance, max_pixels, masks=recipe.mask_weight != 1,
                     faces=bool(recipe.consistency), rejects=Rejects(max_errors))  # fmt: skip
    if unknown := recipe.task_weights.keys() - {*TASKS, *(row.task for row in rows.rows)}:
        raise UsageError(f"`task_weights`: no row is of task {', '.join(sorted(unknown))}")
    return rows


def train_with_progress(recipe: Recipe, source: Source, options: TrainOptions) -> None:
    """Train, and tell how it goes on standard error."""
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    adapters = bool(recipe.model.get("lora"))
    parallel = start(options.parallel, options.device, options.processes, options.replicas, adapters)
    try:
        _train(recipe, source, options, parallel)
    finally:
        parallel.close()


def _train(recipe: Recipe, source: Source, options: TrainOptions, parallel: Parallel) -> None:
    quiet = options.quiet or not parallel.is_main
    recipe = settle(recipe)
    rows = open_rows(recipe, source, options.max_pixels, options.max_errors)
    check_references(recipe, rows)
    held_rows = open_heldout(recipe, options)
    branch = None if options.resume_from is None else checkpoint.find(options.resume_from)
    if branch is not None:
        check_branch(branch, recipe)
    if options.overwrite:
        refuse_own_input(options.output, _reads(recipe, rows, options))
    data = Data.of(rows, "" if options.cache is None else ", stored features")  # batched otherwise
    run = (options.output, recipe, data, options.overwrite)
    finished = parallel.on_main(lambda: check_run(*run))
    if finished:
        if not quiet:
            say(f"finished before; {finished.steps} steps, loss {finished.loss:.4f}")
        return
    no_bars("transformers", "diffusers")
    system = load_system(
        recipe.system,
        recipe.model,
        encoders=options.cache is None or bool(recipe.consistency) or bool(recipe.sample_every),
        seed=recipe.seed,
        texts=lambda: (
            ([] if options.overwrite else kept_words(options.output, branch))
            or sorted({text for row in rows.rows for text in row.texts.values()})
        ),
        device=str(parallel.device),
        dtype=options.encoder_dtype,
    )
    plan = Plan(recipe, rows, system.patch, system.multiple, system.one_row, rows.rejects)
    features: Any = Encoder(system, rows)
    if options.cache is not None:
        store = Store(options.cache)
        features = Stored(store, Keys(system.encoding(), rows, store.contents, options.encoder_dtype))
        features.check(plan.samples)
        plan.lengths = features.lengths(plan.samples)
    heldout = None
    if held_rows is not None:
        stored = options.cache is not None
        keys = Keys(system.encoding(), held_rows, store.contents, options.encoder_dtype) if stored else None
        held_features: Any = Stored(store, keys) if keys is not None else Encoder(system, held_rows)
        heldout = HeldOut(recipe, held_rows, system, held_features)
        if stored:
            held_features.check(heldout.plan.samples)
        both = {row.id for row in held_rows.rows} & {row.id for row in rows.rows}
        if both and not quiet:
            say(f"{len(both)} of {len(held_rows)} held-out rows are trained on too")
    if not quiet:
        describe(recipe, plan, rows, parallel)
    # Only now, so that a mistake leaves no folder that the next try is refused.
    parallel.on_main(lambda: open_run(*run, branch))
    if options.heldout is not None and parallel.is_main:  # for `edit eval checkpoints`
        place = options.heldout_path if "://" in options.heldout_path else str(Path(options.heldout_path).resolve())
        write_json(Path(options.output, "heldout.json"), {"input": [place]})
    with progress(recipe.steps, quiet) as tell:
        outcome = train(
            recipe,
            plan,
            system,
            features,
            options.output,
            branch=branch,
            rejects=rows.rejects,
            parallel=parallel,
            loaders=LOADERS,
            trackers=list(options.track),
            heldout=heldout,
            on_step=tell,
        )
    if quiet:
        return
    resumed = f", resumed from step {outcome.resumed_from}" if outcome.resumed_from else ""
    held = ""
    if heldout is not None and (lines := read_lines(Path(options.output, "heldout.jsonl"))):
        held = f", held-out {value(lines[-1]):.4f} (at the start {value(lines[0]):.4f})"
    say(
        f"{outcome.steps} steps, loss {outcome.loss:.4f}{held}; {outcome.seconds:.0f} s, "
        f"data-wait {outcome.wait_share:.1%}{resumed}"
    )


def _reads(recipe: Recipe, rows: ShardRows, options: TrainOptions) -> dict[str, str]:
    """What a run reads, by where it lies."""
    named = {str(value): f"`{name}`" for name, value in flat_settings({"model": recipe.model}).items()}
    named |= {recipe.consistency_encoder: "`consistency_encoder`", options.cache or "": "--cache"}
    named |= {options.resume_from or "": "--resume-from", options.heldout_path: "--heldout"}
    return {**dict.fromkeys(rows.files, "pictures of the input"), **dict.fromkeys(options.reads, "the input"), **named}


def open_heldout(recipe: Recipe, options: TrainOptions) -> ShardRows | None:
    """The rows of --heldout, where it is given; what is wrong with them is said to be of --heldout."""
    if options.heldout is None:
        return None
    try:
        rows = open_rows(heldout_recipe(recipe), options.heldout, options.max_pixels)
        check_references(recipe, rows)
        return rows
    except EditError as error:
        raise type(error)(f"--heldout: {error}", error.hint) from error


def tell_budget(recipe: Recipe, source: Source | None, options: TrainOptions) -> list[str]:
    """What a run needs, in lines; `processes` and `parallel` say how many devices share it, and how."""
    import os

    from edittools.train import budget

    no_bars("transformers", "diffusers")
    world = options.processes or int(os.environ.get("WORLD_SIZE", "1"))
    mode = options.parallel
    if mode == "auto":
        mode = "single" if world == 1 else "ddp" if recipe.model.get("lora") else "fsdp"
    shards = world // (options.replicas or 1) if mode in ("fsdp", "hsdp") else 1
    rows = plan = None
    texts: list[str] = []
    if source is not None:
        rows = open_rows(recipe, source, options.max_pixels)
        texts = sorted({text for row in rows.rows for text in row.texts.values()})
        shape = load_system(recipe.system, recipe.model, encoders=False, network=recipe.system == "small",
                            texts=lambda: texts)  # fmt: skip
        plan = Plan(recipe, rows, shape.patch, shape.multiple, shape.one_row)
    weights = str(recipe.model.get("weights", ""))
    beside = 0.0 if options.cache or not weights else budget.encoder_bytes(weights, options.encoder_dtype)
    found = budget.measure(
        recipe, plan=plan, texts=texts, mode=mode, world=world, shards=max(1, shards), encoders=beside
    )
    count = None if rows is None else len(rows)
    return [*budget.lines(recipe, found, world, count), *budget.plans(recipe, found)]


def describe(recipe: Recipe, plan: Plan, rows: ShardRows, parallel: Parallel) -> None:
    """What is about to be trained on."""
    use = plan.use()
    skipped = "".join(f", {count} rows {why} left out" for why, count in sorted(rows.left_out.items()))
    if rows.rejects:
        say(f"{len(rows.rejects)} rows cannot be used, see rejects.jsonl: {rows.rejects.summary()}")
    if rows.captioned:
        say(f"{rows.captioned} edits have no instruction: their caption is the text")
    several = f" on {parallel.world} processes ({parallel.mode})" if parallel.world > 1 else ""
    say(f"{len(rows)} rows, {recipe.steps} steps of {recipe.batches} batches{several}{skipped}")
    idle = -recipe.batches % parallel.world
    if idle:
        share = idle / (recipe.batches + idle)
        say(f"{recipe.batches} batches, {parallel.world} processes: {share:.0%} of their time counts nothing")
    say(
        f"{use.buckets} buckets; {1 - use.unused:.1%} of the token budget used, {use.cropped:.1%} of the pixels "
        f"cropped, {use.waiting:.1%} of an epoch's rows wait for the next"
    )
    if shares := drawn(recipe, rows, plan.weights):
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


def precompute_with_progress(
    recipe: Recipe, source: Source, options: TrainOptions, task: tuple[int, int] | None
) -> None:
    """Store what the frozen encoders say about the rows that training will draw; of a part I of N with `task`."""
    recipe = settle(recipe)
    rows = open_rows(recipe, source, options.max_pixels, options.max_errors)
    check_references(recipe, rows)
    no_bars("transformers", "diffusers")
    system = load_system(recipe.system, recipe.model, network=False, device=options.device, dtype=options.encoder_dtype)
    if system.autoencoder is None:
        raise UsageError(f"the system `{recipe.system}` has no frozen encoders: nothing to precompute")
    plan = Plan(recipe, rows, system.patch, system.multiple, system.one_row, rows.rejects)
    store = Store(options.output)
    keys = Keys(system.encoding(), rows, store.contents, options.encoder_dtype)
    number, of = task or (0, 1)
    # Rows, not samples, are shared out: the variants of a row have its pictures in common.
    mine = [sample for sample in plan.samples if sample.row % of == number]
    import torch

    work = [(rows, keys, mine)]
    if (held_rows := open_heldout(recipe, options)) is not None:
        shown = heldout_recipe(recipe)
        held_plan = Plan(shown, held_rows, system.patch, system.multiple, system.one_row)
        theirs = [sample for sample in held_plan.samples if sample.row % of == number]
        work.append((held_rows, Keys(system.encoding(), held_rows, store.contents, options.encoder_dtype), theirs))
    total = sum(len(samples) for _, _, samples in work)
    writer = Writer(options.output, getattr(torch, options.encoder_dtype))
    bar = None
    if not options.quiet and sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=total, unit="sample", desc="precompute", file=sys.stderr, leave=False)
    began, made = time.monotonic(), 0
    try:
        for some, names, samples in work:
            for added in precompute(Encoder(system, some), names, samples, store, writer, some.rejects):
                made += added
                if bar is not None:
                    bar.update()
    finally:
        if bar is not None:
            bar.close()
    if not options.quiet:
        seconds = time.monotonic() - began
        rows_done = sum(len(some) for some, _, _ in work)
        say(f"{total} samples of {rows_done} rows: {made} features computed; {seconds:.0f} s; {options.output}")
        for some, _, _ in work:
            for identity, reason in some.rejects.take():
                say(f"row {identity} cannot be used: {reason}")
