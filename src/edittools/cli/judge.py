"""`edit judge`"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.cli.asking import run_asking
from edittools.cli.benchmarks import examples_of
from edittools.errors import TooManyFailed
from edittools.judge.by_name import HEARD, named_judge
from edittools.judge.config import JudgeConfig
from edittools.judge.rubrics import rubric_names

if TYPE_CHECKING:
    from edittools.vlm.session import Session

_RUBRICS = rubric_names()
_WAYS = {"rubric", "ratings", "calibrate", "ensemble", "folds"}
_OF_RUBRIC = tuple(field.name for field in dataclasses.fields(JudgeConfig) if field.name not in _WAYS)


class _RubricOption(options.Option):
    """Says of the rubrics what they declare themselves."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from edittools.judge.rubrics import load_rubric

        own = [name for name in _RUBRICS if load_rubric(name).benchmark is None]
        self.help = f"Let a model judge. Ours: {', '.join(own)}; the others are a benchmark's and need --prompts."
        return super().get_help_record(ctx)


@options.command(
    "judge",
    cost="Reads once and streams. A call or more per row and pass; every reply is stored before it counts, and -n says "
    "what the calls may cost.",
    examples=examples_of(
        "judge",
        ("edit judge results/ --rubric dimensions --model gpt-4.1 -o judged/", "three scores by a model, our wording"),
        ("edit judge judged/ --rubric dimensions --model qwen3-vl --judge qwen -o both/", "a second judge, beside it"),
        (
            "edit judge results/ --judge editreward --model EditReward/ --prompts EditReward-code/ -o judged/",
            "a trained judge by its name, which writes no words and is asked in this process",
        ),
        ("edit judge both/ --ensemble -o panel/", "the mean of both and how far they are apart, without asking"),
        ("edit judge both/ --calibrate ratings.csv -o calibrated/", "their scores on the scale of people's ratings"),
        ("edit judge results/ --ratings ratings.csv -o rated/", "what people said, as scores to pair and to learn by"),
    ),
)
@options.input_options
@options.config_options(JudgeConfig, without=("rubric",))
@options.option(
    "--rubric",
    type=click.Choice(_RUBRICS),
    cls=_RubricOption,
    help="Let a model judge.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, rubric: str | None, **given: object) -> None:
    """Ask a model what it thinks of pairs and results, by a rubric.

    `judge_RUBRIC_DIMENSION` goes into `scores`, and into the column `judgements` every
    reply with its state (ok, unparsed, refused, filtered, failed, missing), model, endpoint, prompt hash and image
    encoding. A score that no reply gives is null: nothing is invented. Rows with a reply that failed or cannot be read
    count against --max-errors. What the same judge (--judge) said by the same rubric before is replaced.

    Without --rubric, --judge says who judges: a trained reward model, as `edit score --reward-model` has it (--model
    its weights, --prompts its texts; a row that it cannot be asked about is a reject), or a judge that is asked by the
    rubric of its name.
    """
    alone = _OF_RUBRIC
    if ctx.params["ensemble"]:
        options.refuse(ctx, (*alone, "ratings", "calibrate", "folds"), "changes nothing beside --ensemble")
        from edittools.judge.ensemble import EnsembleStage

        options.run_stages(ctx, [EnsembleStage(ctx.params["rubric"])])
        return
    if ctx.params["calibrate"] is not None:
        options.refuse(
            ctx, ("ratings", *(name for name in alone if name != "judge")), "changes nothing beside --calibrate",
            hint="judge first: edit judge ROWS --rubric R --model M | edit judge --calibrate FILE",
        )  # fmt: skip
        _by_ratings(ctx)
        return
    options.refuse(ctx, ("folds",), "needs --calibrate")
    if ctx.params["ratings"] is not None:
        options.refuse(
            ctx, ("rubric", *(name for name in alone if name != "model")), "changes nothing beside --ratings"
        )
        _by_people(ctx)
        return
    asked = named_judge(options.config(ctx, JudgeConfig), strict=False)
    if isinstance(asked, JudgeConfig):
        _by_model(ctx, asked)
        return
    options.refuse(
        ctx, tuple(name for name in alone if name not in HEARD),
        f"changes nothing beside --judge {ctx.params['judge']}, which is asked in this process",
    )  # fmt: skip
    from edittools.score.stage import score_stage

    options.run_stages(ctx, [score_stage(asked)])


def _by_people(ctx: click.Context) -> None:
    from edittools.judge.agreement import read_ratings
    from edittools.judge.ratings_stage import RatingsStage

    told = ctx.get_parameter_source("model") is click.core.ParameterSource.COMMANDLINE  # a file's is who is asked
    path, model = ctx.params["ratings"], ctx.params["model"] if told else None
    options.run_stages(ctx, [RatingsStage(read_ratings(path, model=model), model=model)])


def _by_ratings(ctx: click.Context) -> None:
    from edittools.judge.agreement import read_ratings
    from edittools.judge.calibration_stage import CalibrationStage

    given = ctx.params
    ratings = read_ratings(given["calibrate"])
    stage = CalibrationStage(ratings, folds=given["folds"] or 5, rubric=given["rubric"], judge=given["judge"])
    options.run_stages(ctx, [stage])


def _by_model(ctx: click.Context, config: JudgeConfig) -> None:
    from edittools.judge.stage import calls_of, judge_stage
    from edittools.stream.run import open_input, settings_of
    from edittools.vlm.session import Session

    run_options = options.run_settings(ctx)
    source = open_input(list(ctx.params["input"]), run_options)
    session = Session(config, run_options, ctx.params["input"], config.repeats)
    stage = judge_stage(config, session, jobs=options.jobs(ctx))
    session.settings = settings_of([stage], source, run_options.limit)
    if run_options.dry_run:
        first = (request for request, _ in stage.requests(source, rows=16))
        notes = session.plan(first, calls_of(stage.rubric, source.rows or 0, config.repeats))
        options.show_plan(ctx, source, session.settings, notes)
    elif config.batch == "submit":
        with session:
            session.submit(stage.requests(source, functools.partial(_is_mine, run_options.task)))
    else:
        _run_judge(stage, session, source, run_options)


def _is_mine(task: tuple[int, int] | None, shard: Any) -> bool:
    return task is None or shard.index % task[1] == task[0]


def _run_judge(stage: Any, session: Session, source: Any, run_options: Any) -> None:
    """Raises TooManyFailed where too many rows have no score."""
    from edittools.stream.opening import open_source
    from edittools.stream.run import check_errors
    from edittools.stream.writers.shards import ShardSetSink

    # What was collected before may lack rows that a later batch has answered.
    again = session.redo | (frozenset({"failed", "unparsed"}) if session.config.batch == "collect" else frozenset())
    sink, total = run_asking([stage], session, source, run_options, stage.has_state, again)
    if stage.unasked and not run_options.quiet:
        click.echo(f"judge: nothing to ask about {stage.unasked} rows; the first: {stage.unasked_why}", err=True)
    # Not a reject: the row goes on without the score, so no later command of a pipe can count it.
    counts = stage.counts
    if isinstance(sink, ShardSetSink) and total.kept != counts.rows:  # an earlier run, or a cluster, made some of it
        made = open_source([sink.folder], partial=True)
        counts = stage.recount(made.batches(functools.partial(_is_mine, run_options.task)))
    check_errors(counts, run_options.max_errors, session.hint())
    # Whatever else is tolerated: refusals are no failures, and no result either.
    if counts.failed < counts.asked and not counts.scored:
        raise TooManyFailed(f"none of the {counts.asked} rows that were asked about has a score", hint=session.hint())
