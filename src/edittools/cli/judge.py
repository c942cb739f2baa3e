"""`edit judge`"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import click

from edittools.cli import options
from edittools.cli.asking import Asking, writer_options
from edittools.errors import TooManyFailed, UsageError

_RUBRICS = options.module_names("judges", "rubrics")
# Options that one way of judging has, and the others have not.
_OF_PIXELS = ("clip", "dino")
_OF_WRITING = ("ocr", "targets")
_OF_RUBRIC = (
    "model", "backend", "api_base", "key_from", "temperature", "max_tokens", "picture_pixels", "timeout", "concurrency",
    "rpm", "tpm", "max_cost", "prices", "store", "prompts", "passes", "soft", "structured", "second", "max_side",
    "param", "batch", "redo", "judge",
)  # fmt: skip


class _RubricOption(options.Option):
    """Says of the rubrics what they declare themselves."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from edittools.judges.rubrics import load_rubric

        own = [name for name in _RUBRICS if load_rubric(name).benchmark is None]
        self.help = f"Let a model judge. Ours: {', '.join(own)}; the others are a benchmark's and need --prompts."
        return super().get_help_record(ctx)


def _judge_name(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from edittools.judges.judgements import check_judge_name

    return None if value is None else check_judge_name(value)


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

    given = ctx.params
    rubric = load_rubric(name)
    if given["model"] is None:
        raise UsageError("--rubric needs --model: who judges?")
    if given["prompts"] and rubric.benchmark is None:
        raise UsageError(f"--prompts: rubric `{name}` has words of its own")
    prompts = read_prompts(given["prompts"], rubric.benchmark) if given["prompts"] and rubric.benchmark else None
    asking = Asking(given, run_options)
    stage = VlmJudgeStage(
        rubric,
        asking,
        model=given["model"],
        endpoint=asking.writer.name,
        prompts=None if prompts is None else prompts.texts,
        passes=given["passes"],
        parameters=asking.parameters,
        encoding=Encoding(max_side=given["max_side"], max_pixels=given["max_pixels"]),
        language=given["language"],
        edited=given["column"],
        other=given["second"],
        soft=given["soft"],
        structured=given["structured"],
        judge=given["judge"],
        jobs=options.jobs(ctx),
    )
    digest = None if prompts is None else prompts.digest
    asking.settings = options.settings(ctx, prompts=digest, endpoint=asking.endpoint)
    if run_options.dry_run:
        notes = asking.plan(stage.sample(source), calls_of(rubric, source.rows or 0, given["passes"]))
        options.show_plan(ctx, source, asking.settings, notes)
    elif given["batch"] == "submit":
        with asking:
            asking.submit(stage.requests(source, functools.partial(_is_mine, run_options.task)))
    else:
        _run_judge(stage, asking, source, run_options)


def _is_mine(task: tuple[int, int] | None, shard: Any) -> bool:
    return task is None or shard.index % task[1] == task[0]


def _run_judge(stage: Any, asking: Asking, source: Any, run_options: Any) -> None:
    """Raises TooManyFailed where too many rows have no score."""
    from edittools.stream.run import check_errors, open_progress, open_sink, run
    from edittools.stream.sink import ShardSetSink
    from edittools.stream.source import open_source

    sink = open_sink(run_options)
    # What was collected before may lack rows that a later batch has answered.
    again = asking.redo | (frozenset({"failed", "unparsed"}) if asking.given["batch"] == "collect" else frozenset())
    if again and isinstance(sink, ShardSetSink):
        if run_options.ray is None:
            sink.again = lambda path: stage.has_state(path, again)
        else:  # its tasks look for themselves, and all have to be started
            run_options = dataclasses.replace(run_options, overwrite=True)
    progress = open_progress("judge", source, run_options, sink, asking.said)
    asking.refresh = progress.refresh
    with asking:
        if asking.given["batch"] == "collect":
            asking.collect()
        total = run("judge", source, [stage], asking.settings, run_options, sink=sink, progress=progress)
    if stage.unasked and not run_options.quiet:
        click.echo(f"judge: nothing to ask about {stage.unasked} rows; the first: {stage.unasked_why}", err=True)
    # Not a reject: the row goes on without the score, so no later command of a pipe can count it.
    counts = stage.counts
    if isinstance(sink, ShardSetSink) and total.kept != counts.rows:  # an earlier run, or a cluster, made some of it
        made = open_source([sink.folder], partial=True)
        counts = stage.recount(made.batches(functools.partial(_is_mine, run_options.task)))
    check_errors(counts, run_options.max_errors, asking.hint())
    # Whatever else is tolerated: refusals are no failures, and no result either.
    if counts.failed < counts.asked and not counts.scored:
        raise TooManyFailed(f"none of the {counts.asked} rows that were asked about has a score", hint=asking.hint())
