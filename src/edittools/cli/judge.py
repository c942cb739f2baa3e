"""`edit judge`"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.errors import EditError, TooManyFailed, UsageError

if TYPE_CHECKING:
    from edittools.models.writers.asking import Tally


_RUBRICS = options.module_names("judges", "rubrics")
# Options that one way of judging has, and the others have not.
_OF_PIXELS = ("clip", "dino")
_OF_WRITING = ("ocr", "targets")
_OF_RUBRIC = (
    "model", "backend", "api_base", "key_from", "temperature", "max_tokens", "picture_pixels", "timeout", "concurrency",
    "rpm", "tpm", "max_cost", "prices", "store", "prompts", "passes", "soft", "structured", "second", "max_side",
    "param", "batch", "redo", "judge",
)  # fmt: skip
_STATES = ("failed", "filtered", "unparsed", "refused")  # that --redo chooses from


class _Amount(click.ParamType):
    """A finite number, 0 or more; `positive` excludes 0."""

    name = "number"

    def __init__(self, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (self.positive and number == 0):
            self.fail(f"{value} is not a number {'above' if self.positive else 'of at least'} 0", param, ctx)
        return number


class _RubricOption(options.Option):
    """Says of the rubrics what they declare themselves."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from edittools.judges.rubrics import load_rubric

        own = [name for name in _RUBRICS if load_rubric(name).benchmark is None]
        self.help = f"Let a model judge. Ours: {', '.join(own)}; the others are a benchmark's and need --prompts."
        return super().get_help_record(ctx)


class _PixelRange(click.ParamType):
    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        least, _, most = str(value).partition("..")
        if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
            self.fail(f"{value} is not MIN..MAX, two numbers of pixels such as 1016064..1354752", param, ctx)
        return int(least), int(most)


class _Parameter(click.ParamType):
    """`NAME=VALUE`, the value as JSON where it is some; without a value (name, None)."""

    name = "parameter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value} is not NAME=VALUE, such as top_p=0.9, nor NAME= to leave NAME out", param, ctx)
        if name in ("model", "messages", "input"):
            self.fail(f"`{name}` is what the command itself sends", param, ctx)
        try:
            return name, json.loads(text) if text else None
        except ValueError:
            return name, text


class _States(click.ParamType):
    """States of replies, separated by commas, or `all`."""

    name = "states"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        if isinstance(value, frozenset):
            return value
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in (*_STATES, "all"):
                self.fail(f"{name!r} is none of {', '.join(_STATES)}, all", param, ctx)
        return frozenset(("ok", *_STATES) if "all" in names else names)


def _judge_name(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from edittools.judges.judgements import check_judge_name

    return None if value is None else check_judge_name(value)


def writer_options(function: Callable) -> Callable:
    """How a model that writes text is reached, and at what pace."""
    choices = (
        options.option(
            "--model", metavar="NAME", group="Model", help="The judge: a model of the endpoint, or a folder (local)."
        ),
        options.option(
            "--backend",
            type=click.Choice(["endpoint", "local", "echo"]),
            group="Model",
            setting=False,
            help="endpoint: any OpenAI-compatible one. local: transformers. Default: an endpoint where an address or a "
            "key is set, local where --model is a folder.",
        ),
        options.option(
            "--api-base",
            metavar="URL",
            group="Model",
            setting=False,
            help="Address of the endpoint. Default: EDITTOOLS_API_BASE, OPENAI_BASE_URL, OpenAI's own.",
        ),
        options.option(
            "--key-from",
            metavar="VARIABLE",
            group="Model",
            setting=False,
            help="Environment variable that holds the key. Default: OPENAI_API_KEY.",
        ),
        options.option(
            "--temperature", type=_Amount(), metavar="T", group="Model", help="Default: the endpoint's own."
        ),
        options.option(
            "--max-tokens",
            type=click.IntRange(min=1),
            metavar="N",
            group="Model",
            help="Tokens of a reply at most. Default: what the rubric says.",
        ),
        options.option(
            "--param",
            type=_Parameter(),
            multiple=True,
            metavar="NAME=VALUE",
            group="Model",
            help="Send this parameter (JSON, else text) in place of the rubric's; NAME= leaves it out. What a model "
            "declines is left out anyway. Several times.",
        ),
        options.option(
            "--picture-pixels",
            type=_PixelRange(),
            metavar="MIN..MAX",
            group="Model",
            help="Pixels that a local model scales a picture to. Default: the checkpoint's own. ImgEdit-Judge: "
            "1016064..1354752, with --max-tokens 2048.",
        ),
        options.option(
            "--timeout",
            type=_Amount(positive=True),
            metavar="SECONDS",
            group="Model",
            setting=False,
            help="How long a call of the endpoint may take. Default: 300.",
        ),
        options.option(
            "--concurrency",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            metavar="N",
            group="Model",
            setting=False,
            help="Calls in flight.",
        ),
        options.option(
            "--rpm",
            type=_Amount(positive=True),
            metavar="N",
            group="Model",
            setting=False,
            help="Requests per minute at most.",
        ),
        options.option(
            "--tpm",
            type=_Amount(positive=True),
            metavar="N",
            group="Model",
            setting=False,
            help="Tokens per minute at most.",
        ),
        options.option(
            "--max-cost",
            type=_Amount(),
            metavar="AMOUNT",
            group="Model",
            setting=False,
            help="Stop before this run has cost more, by the price table; running again goes on.",
        ),
        options.option(
            "--prices", metavar="FILE", group="Model", setting=False, help="Price table (TOML) instead of ours."
        ),
        options.option(
            "--store",
            metavar="DIR/",
            group="Model",
            setting=False,
            help="Where replies are kept: none is ever asked for again, except what failed, by another run, and what "
            "--redo names. Default: OUTPUT.replies/ beside a shard set.",
        ),
        options.option(
            "--batch",
            type=click.Choice(["submit", "collect"]),
            group="Model",
            setting=False,
            help="By the endpoint's batch interface, at half the price within a day. submit: send every request that "
            "nobody has answered, and write nothing. collect: when all batches are done, judge with their replies.",
        ),
        options.option(
            "--redo",
            type=_States(),
            metavar="STATES",
            group="Model",
            setting=False,
            help="Ask again for rows of these states: failed, filtered, unparsed, refused (several with commas), or "
            "all. Finished shards that have such rows are made anew. --overwrite does it for what failed.",
        ),
    )
    for decorate in reversed(choices):
        function = decorate(function)
    return function


@options.command(
    "judge",
    cost="Without a rubric: reads once and streams; decodes every picture of a row once. With one: a call or more per "
    "row and pass; every reply is stored before it counts, and -n says what the calls may cost.",
    examples=(
        ("edit judge pairs/ | edit filter --where 'scores.visible = 1' -o good/", "drop pairs without a visible edit"),
        ("edit sample held/ --model run/ | edit judge -o judged/", "compare results with the truth"),
        ("edit judge results/ --rubric dimensions --model gpt-4.1 -o judged/", "three scores by a model, our wording"),
        ("edit judge judged/ --rubric dimensions --model qwen3-vl --judge qwen -o both/", "a second judge, beside it"),
        ("edit judge both/ --calibrate ratings.csv -o calibrated/", "their scores on the scale of people's ratings"),
        (
            "edit judge results/ --rubric imgedit --prompts ImgEdit/ --model gpt-4.1 -o judged/",
            "a benchmark's own words, out of your checkout of it; then `edit eval imgedit judged/`",
        ),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--rubric",
    type=click.Choice(_RUBRICS),
    cls=_RubricOption,
    help="Let a model judge.",
)
@options.option(
    "--prompts", metavar="PATH", help="The benchmark's texts: a file, a folder or a checkout that holds them."
)
@options.option(
    "--passes", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="Judge every row K times."
)
@options.option(
    "--judge",
    metavar="NAME",
    callback=_judge_name,
    help="Call this judge NAME (letters, digits, _ - .): its scores get columns of their own, "
    "`judge_RUBRIC_DIMENSION__NAME` with _ for - and ., beside those of other judges; `edit eval --judge` chooses.",
)
@options.option("--soft", is_flag=True, help="Also the expected rating under the token probabilities (`_soft`).")
@options.option("--structured", is_flag=True, help="Ask for JSON by schema: where endpoint and rubric can.")
@options.option(
    "--language", type=click.Choice(["en", "zh"]), help="Of the instructions. Default: English, or what a row has."
)
@options.option("--column", metavar="NAME", help="The edited picture. Default: `result`, otherwise `target`.")
@options.option("--second", metavar="NAME", help="The other result's column (rubric pairwise).")
@options.option(
    "--max-side",
    type=click.IntRange(min=64),
    default=1024,
    show_default=True,
    metavar="N",
    help="Longest side of the pictures that our own rubrics send; a benchmark's have their own encoding.",
)
@options.option("--clip", metavar="NAME", group="Model", help="Without a rubric: also CLIP similarity of the result.")
@options.option("--dino", metavar="NAME", group="Model", help="Without a rubric: also DINO similarity of the result.")
@options.option(
    "--ocr",
    is_flag=True,
    help="Instead: does the writing in the result (or target) read as the instruction says in quotation marks? "
    "`ocr_similarity`, `ocr_completion`, `ocr_words` and their weighted mean `ocr`, definitions and weights ours.",
)
@options.option(
    "--targets",
    metavar="FILE",
    help="With --ocr: the wanted texts, `id` and `text` in CSV, Parquet or JSON lines; rows that it lacks go by their "
    "instruction.",
)
@options.option(
    "--calibrate",
    metavar="FILE",
    help="Instead: put the scores of judged rows on the scale of human ratings (CSV, Parquet or JSON lines: id, score, "
    "and rater and dimension where there are several), by isotonic regression: `judge_RUBRIC_DIMENSION_calibrated`, of "
    "a rated row by a fit without its fold. --rubric and --judge narrow down whose scores.",
)
@options.option(
    "--folds", type=click.IntRange(min=2), metavar="K", help="With --calibrate: of the cross-validation. Default: 5."
)
@writer_options
@options.model_options
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], rubric: str | None, **given: object) -> None:
    """Score pairs: is the edit visible and where; is the result the truth; what does a model say of it.

    Into the column `scores`: `visible` (0 or 1), `edit_ratio` (share of pixels that change by more than 8 of 255),
    `mask_share` and `mask_iou` (how well the change agrees with the mask), `copy_psnr`, `copy_ssim`, `copy_l1` (target
    against source), and `edit_box` beside it. After `edit sample` also `psnr`, `ssim`, `l1` of the result against the
    target, inside and outside the mask, and the same for copying the source. PSNR is in dB and capped at 100.
    --clip and --dino add the similarity of result and target in these spaces, whole, inside and outside, and whether
    the result left the source in the target's direction.

    With --rubric a model judges instead: `judge_RUBRIC_DIMENSION` into `scores`, and into the column `judgements` every
    reply with its state (ok, unparsed, refused, filtered, failed, missing), model, endpoint, prompt hash and picture
    encoding. A score that no reply gives is null: nothing is invented. Rows with a reply that failed or cannot be read
    count against --max-errors. What the same judge (--judge) said by the same rubric before is replaced.
    """
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    source = open_input(list(input), run_options)
    if ctx.params["calibrate"] is not None:
        others = tuple(name for name in _OF_RUBRIC if name != "judge")
        options.refuse(
            ctx, (*_OF_PIXELS, *_OF_WRITING, *others, "language", "column"), "changes nothing beside --calibrate",
            hint="judge first: edit judge ROWS --rubric R --model M | edit judge --calibrate FILE",
        )  # fmt: skip
        _by_ratings(ctx, source, run_options)
        return
    options.refuse(ctx, ("folds",), "needs --calibrate")
    if rubric is not None:
        options.refuse(ctx, (*_OF_PIXELS, *_OF_WRITING), "changes nothing beside --rubric")
        _by_model(ctx, rubric, source, run_options)
        return
    if ctx.params["ocr"]:
        options.refuse(ctx, (*_OF_PIXELS, *_OF_RUBRIC), "changes nothing beside --ocr")
        _by_ocr(ctx, source, run_options)
        return
    options.refuse(ctx, _OF_RUBRIC, "needs --rubric", hint="the rubrics: " + ", ".join(_RUBRICS))
    options.refuse(ctx, ("language", "column"), "needs --rubric or --ocr")
    options.refuse(ctx, ("targets",), "needs --ocr")
    from edittools.judges.stage import JudgeStage

    names = {name: ctx.params[name] for name in ("clip", "dino") if ctx.params[name]}
    embedders = _embedders(ctx, names) if names else {}
    # The other options say how a model judges, and change nothing here.
    settings = {name: value for name, value in options.settings(ctx).items() if name in ("limit", "max_pixels")}
    if embedders:
        settings |= {name: f"{model.name} {model.revision}" for name, model in embedders.items()}
        settings |= options.device_and_dtype(ctx.params)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    stage = JudgeStage(max_pixels=ctx.params["max_pixels"], jobs=options.jobs(ctx), embedders=embedders)
    run("judge", source, [stage], settings, run_options)


def _by_ocr(ctx: click.Context, source: Any, run_options: Any) -> None:
    from edittools.judges.ocr import read_targets
    from edittools.judges.ocr_stage import OcrStage
    from edittools.stream.history import canonical_json, digest
    from edittools.stream.run import run

    given = ctx.params
    targets = read_targets(given["targets"]) if given["targets"] else None
    stage = OcrStage(
        language=given["language"],
        column=given["column"],
        max_pixels=given["max_pixels"],
        jobs=options.jobs(ctx),
        targets=targets,
    )
    here = ("limit", "max_pixels", "ocr", "targets", "language", "column")
    resolved = options.settings(ctx, targets=None if targets is None else digest(canonical_json(targets)))
    settings = {name: value for name, value in resolved.items() if name in here}
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    run("judge", source, [stage], settings, run_options)


def _by_ratings(ctx: click.Context, source: Any, run_options: Any) -> None:
    from edittools.judges.agreement import read_ratings
    from edittools.judges.calibration_stage import CalibrationStage
    from edittools.stream.history import canonical_json, digest
    from edittools.stream.run import run

    given = ctx.params
    ratings = read_ratings(given["calibrate"])
    stage = CalibrationStage(ratings, folds=given["folds"] or 5, rubric=given["rubric"], judge=given["judge"])
    people = sorted([rating.id, rating.rater, rating.dimension, rating.score] for rating in ratings)
    resolved = options.settings(ctx, calibrate=digest(canonical_json(people)), folds=stage.folds)
    here = ("limit", "calibrate", "folds", "rubric", "judge")
    settings = {name: value for name, value in resolved.items() if name in here}
    if run_options.dry_run:
        stage.schema(source.schema)
        options.show_plan(ctx, source, settings)
        return
    run("judge", source, [stage], settings, run_options)


def _embedders(ctx: click.Context, names: dict[str, str]) -> dict[str, Any]:
    from edittools.models.embedders import load_embedder

    placed = options.device_and_dtype(ctx.params)
    return {short: load_embedder(name, **placed) for short, name in names.items()}


def _by_model(ctx: click.Context, name: str, source: Any, run_options: Any) -> None:
    from edittools.judges.prompts import read_prompts
    from edittools.judges.protocols import Encoding
    from edittools.judges.rubrics import load_rubric
    from edittools.judges.vlm_stage import VlmJudgeStage, calls_of
    from edittools.models.writers.asking import Tally, ask_all
    from edittools.models.writers.batches import DISCOUNT, Batches
    from edittools.models.writers.echo import EchoWriter
    from edittools.models.writers.prices import estimate, load_prices
    from edittools.models.writers.store import Store, count_stored
    from edittools.stream.run import check_errors, open_progress, open_sink, run
    from edittools.stream.sink import ShardSetSink
    from edittools.stream.source import open_source

    given = ctx.params
    rubric = load_rubric(name)
    if given["model"] is None:
        raise UsageError("--rubric needs --model: who judges?")
    if given["prompts"] and rubric.benchmark is None:
        raise UsageError(f"--prompts: rubric `{name}` has words of its own")
    limits = [option for option in ("max_cost", "rpm", "tpm") if given[option] is not None]
    if limits and run_options.ray is not None:
        raise UsageError(f"--{limits[0].replace('_', '-')} bounds one process: it cannot be used with --ray")
    if given["batch"] and run_options.ray is not None:
        raise UsageError("--batch: is one process's work; leave out --ray, or give each task of an array --task")
    if given["batch"] and given["redo"]:
        raise UsageError("--redo with --batch: what failed or cannot be read is submitted again as it is")
    prompts = read_prompts(given["prompts"], rubric.benchmark) if given["prompts"] and rubric.benchmark else None
    parameters = _parameters(given)
    redo: frozenset[Any] = (given["redo"] or frozenset()) | ({"failed"} if run_options.overwrite else frozenset())
    writer: Any = _writer(given) if not run_options.dry_run else EchoWriter()
    # A price is needed for a limit; without one it is only told where the table has the model.
    table, prices = load_prices(given["prices"]), None
    try:
        table.find(given["model"])
        prices = table
    except EditError:
        if given["max_cost"] is not None:
            raise
    tally = Tally()
    store: Store | None = None

    def opened() -> Store:
        nonlocal store
        if store is None:
            store = Store(_store_folder(given), f"{run_options.task[0] if run_options.task else 0:05d}")
            store.claim(given["input"], given["output"], run_options.task, settings)
        return store

    def mine(shard: Any) -> bool:
        task = run_options.task
        return task is None or shard.index % task[1] == task[0]

    def ask(requests: Any, check: Any) -> Iterator[Any]:
        yield from ask_all(
            requests,
            writer,
            opened(),
            concurrency=given["concurrency"],
            requests_per_minute=given["rpm"],
            tokens_per_minute=given["tpm"],
            max_cost=given["max_cost"],
            prices=prices,
            check=check,
            redo=redo | {"failed"},
            tally=tally,
            progress=lambda _: progress.refresh(),
        )

    stage = VlmJudgeStage(
        rubric,
        ask,
        model=given["model"],
        endpoint=writer.name,
        prompts=None if prompts is None else prompts.texts,
        passes=given["passes"],
        parameters=parameters,
        encoding=Encoding(max_side=given["max_side"], max_pixels=given["max_pixels"]),
        language=given["language"],
        edited=given["column"],
        other=given["second"],
        soft=given["soft"],
        structured=given["structured"],
        judge=given["judge"],
        jobs=options.jobs(ctx),
    )
    # -n reaches nobody: the backend that it loads is a stand-in.
    where = given["api_base"] if run_options.dry_run else writer.name
    settings = options.settings(ctx, prompts=None if prompts is None else prompts.digest, endpoint=where)
    if run_options.dry_run:
        rows = source.rows or 0
        calls = calls_of(rubric, rows, given["passes"])
        found = estimate(stage.sample(source), prices, calls=calls)
        cost = "no price is known for this model" if prices is None else f"{found.cost:.2f} {prices.currency}"
        note = f"at most {found.calls} calls, about {found.prompt_tokens:,} tokens read and "
        notes = [f"{note}{found.completion_tokens:,} written: {cost}"]
        with contextlib.suppress(UsageError):  # nobody has said yet where the replies will be kept
            folder = _store_folder(given)
            if stored := count_stored(folder):
                notes.append(f"{folder}: {stored:,} replies; those that are asked for here cost nothing")
        options.show_plan(ctx, source, settings, tuple(notes))
        return
    if given["batch"] == "submit":
        try:
            _submit(Batches(opened(), writer), stage.requests(source, mine), given, prices, run_options.quiet)
        finally:
            if store is not None:
                store.close()
        return
    sink = open_sink(run_options)
    if redo and isinstance(sink, ShardSetSink):
        if run_options.ray is None:
            sink.again = lambda path: stage.has_state(path, redo)
        else:  # its tasks look for themselves, and all have to be started
            run_options = dataclasses.replace(run_options, overwrite=True)
    progress = open_progress("judge", source, run_options, sink, lambda: _said(tally))
    batches = None
    try:
        if given["batch"] == "collect":
            batches = Batches(opened(), writer)
            writer = batches.collect()
            prices = None if prices is None else prices.scaled(DISCOUNT)
        total = run("judge", source, [stage], settings, run_options, sink=sink, progress=progress)
        if batches is not None:
            batches.taken()
    finally:
        if store is not None:
            store.close()
        if not run_options.quiet:
            for times, state, example in tally.reasons.most_frequent(3):
                click.echo(f"judge: {times} {state}: {example}", err=True)
    if stage.unasked and not run_options.quiet:
        click.echo(f"judge: nothing to ask about {stage.unasked} rows; the first: {stage.unasked_why}", err=True)
    # Not a reject: the row goes on without the score, so no later command of a pipe can count it.
    again = ",".join(state for state in _STATES if getattr(tally, state)) or "failed,unparsed"
    hint = f"the output is written, and judgements say why; --redo {again} asks for these rows again"
    counts = stage.counts
    if isinstance(sink, ShardSetSink) and total.kept != counts.rows:  # an earlier run, or a cluster, made some of it
        counts = stage.recount(open_source([sink.folder], partial=True).batches(mine))
    check_errors(counts, run_options.max_errors, hint)
    # Whatever else is tolerated: refusals are no failures, and no result either.
    if counts.failed < counts.asked and not counts.scored:
        raise TooManyFailed(f"none of the {counts.asked} rows that were asked about has a score", hint=hint)


def _submit(batches: Any, requests: Any, given: dict[str, Any], prices: Any, quiet: bool) -> None:
    """`--batch submit`, and a line about it."""
    done = batches.submit(requests, prices=prices, max_cost=given["max_cost"])
    if quiet:
        return
    parts = [f"{done.requests} requests submitted in {done.batches} batches"]
    parts += [f"{done.stored} answered before"] if done.stored else []
    parts += [f"{done.waiting} with the service already"] if done.waiting else []
    parts += [f"about {done.cost:.2f} {prices.currency} at the rate of batches"] if done.cost else []
    click.echo(f"judge: {', '.join(parts)}; --batch collect takes the replies", err=True)


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """What replaces the rubric's parameters; None leaves one out."""
    said = [(name, given[name]) for name in ("temperature", "max_tokens") if given[name] is not None]
    parameters: dict[str, Any] = {}
    for name, value in [*said, *given["param"]]:
        if name in parameters:
            raise UsageError(f"--param {name}: is given twice")
        parameters[name] = value
    return parameters


def _writer(given: dict[str, Any]) -> Any:
    from edittools.models.writers.load import choose_backend, load_writer

    address = {name: given[name] for name in ("api_base", "key_from")}
    backend = choose_backend(given["model"], backend=given["backend"], **address)
    if backend == "local" and given["passes"] > 1 and not _parameters(given).get("temperature"):
        raise UsageError(
            "--passes: without a temperature a local model writes the same every time",
            hint="--temperature 1 draws another reply in every pass",
        )
    if given["batch"] and backend != "endpoint":
        raise UsageError(f"--batch is for an endpoint: the backend is {backend}")
    return load_writer(
        given["model"],
        backend,
        **address,
        timeout=given["timeout"],
        **options.device_and_dtype(given),
        batch_size=given["batch_size"] or 8,
        picture_pixels=given["picture_pixels"],
    )


def _store_folder(given: dict[str, Any]) -> str:
    if given["store"]:
        return str(given["store"])
    output = given["output"]
    if output in (None, "-") or "://" in output:
        raise UsageError("--store DIR/ says where the replies are kept", hint="with -o DIR/ it is DIR.replies/")
    return output.rstrip("/") + ".replies"


def _said(tally: Tally) -> str:
    if not tally.replies:  # the tasks of a cluster ask by themselves
        return ""
    parts = [f"{tally.calls} calls", f"{tally.stored} replies from the store"]
    parts.append(f"{tally.prompt_tokens + tally.completion_tokens:,} tokens")
    if tally.cost is not None:
        parts.append(f"cost {tally.cost:.2f}")
    for name in ("refused", "filtered", "failed", "unparsed"):
        if getattr(tally, name):
            parts.append(f"{getattr(tally, name)} {name}")
    if tally.seconds > 10 and tally.starved_share > 0.1:  # a faster endpoint would not help
        parts.append(f"waited for pictures {tally.starved_share:.0%} of the time")
    return ", ".join(parts)
