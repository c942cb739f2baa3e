"""`edit caption`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edittools.caption.config import CaptionConfig
from edittools.cli import options
from edittools.cli.asking import run_asking

if TYPE_CHECKING:
    from edittools.caption.model_stage import ModelCaptionStage
    from edittools.vlm.session import Session


@options.command(
    "caption",
    cost="Reads once and streams. Kind grammar opens no image and asks nobody; the others make a call or more per row, "
    "every reply is stored before it counts, and -n says what the calls may cost.",
    examples=(
        ("edit caption pairs/ -o captioned/", "without a model: a column per style, English and Chinese"),
        ("edit synth clean/ | edit caption --styles concise -o pairs/", "one style, in a pipe"),
        (
            "edit caption clean/ --kinds structured,names --model qwen3-vl --api-base http://gpu:8000/v1 -o named/",
            "what images show, and what can be cut out of them, in one call per image",
        ),
        (
            "edit caption found/ --kinds detailed,concise,user_like --model qwen3-vl --model gpt-4.1 -o told/",
            "instructions for pairs that somebody found, in three styles",
        ),
        (
            "edit caption told/ --kinds perturb --model qwen3-vl --verifier gpt-4.1 -o negatives/",
            "for training a judge",
        ),
    ),
)
@options.input_options
@options.config_options(CaptionConfig, without=("batch",))
@options.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    setting=False,
    callback=lambda ctx, option, value: _list(ctx) if value and not ctx.resilient_parsing else None,
    help="List kinds and tests of captions, what they read and what they write, and end.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, **given: object) -> None:
    """Write captions and instructions.

    By default without a model: from the template and the values that `edit synth` recorded, by a grammar, in three
    styles and two languages. With --kinds and --model, a model looks at images and pairs: `--list` names the kinds and
    their columns. An answer that is not valid JSON of the right form, in the right languages, with the quotes, numbers,
    sides and colours that it should have, is asked for again; then the row is rejected and says why.
    """
    from edittools.caption.model_stage import caption_stages
    from edittools.stream.run import open_input, settings_of
    from edittools.vlm.session import Session

    config, run_options = options.config(ctx, CaptionConfig), options.run_settings(ctx)
    inputs = list(ctx.params["input"])
    stages, session = caption_stages(config, lambda: Session(config, run_options, inputs, command="caption", retries=0))
    if session is None:
        options.run_stages(ctx, stages)
        return
    source = open_input(inputs, run_options)
    session.settings = settings_of(stages, source, run_options.limit)
    if run_options.dry_run:
        schema = source.schema
        for stage in stages:
            schema = stage.schema(schema)
        options.show_plan(ctx, source, session.settings, _costs(stages[-1], session, source))
        return
    run_asking(stages, session, source, run_options, stages[-1].has_state, session.redo)


def _costs(stage: ModelCaptionStage, session: Session, source: Any) -> tuple[str, ...]:
    """What the calls may cost, per kind and per thousand rows, from the first rows of the input."""
    from edittools.vlm.prices import estimate

    asked: dict[str, list[Any]] = {}
    rows = min(16, source.rows or 16)
    for kinds, request in stage.requests(source, rows):
        asked.setdefault(kinds, []).append(request)
    notes = []
    for kinds, requests in asked.items():
        found = estimate(requests, session.prices, calls=round(1000 * len(requests) / max(rows, 1)))
        cost = "no price is known"
        if found.cost is not None and session.prices is not None:
            cost = f"{found.cost:.2f} {session.prices.currency}"
        notes.append(
            f"{kinds}: {found.calls:,} calls per 1,000 rows, about {found.prompt_tokens:,} tokens read and at most "
            f"{found.completion_tokens:,} written: {cost}"
        )
    return tuple(notes)


def _list(ctx: click.Context) -> None:
    from edittools.caption.checks import CHECKS
    from edittools.caption.kind import KINDS

    config = CaptionConfig(model=("NAME",), kinds=KINDS.names)
    click.echo("Kinds (--kinds):\n  grammar        from the template of `edit synth`, without a model")
    click.echo("                 reads: provenance; writes: instruction_STYLE for each of --styles")
    for name in KINDS.names:
        kind = KINDS.load(name).KIND
        click.echo(f"  {name:<14} {kind.summary}")
        writes = ", ".join([*kind.writes(config), *(f"scores.{score}" for score in kind.scores_of(config))])
        needs = f"; needs: {', '.join(kind.needs)}" if kind.needs else ""
        click.echo(f"  {'':<14} reads: {kind.reads}{needs}; writes: {writes}")
    click.echo("\nTests of captions (--check):")
    for name in CHECKS.names:
        check = CHECKS.load(name).KIND
        click.echo(f"  {name:<14} {check.summary}")
        click.echo(
            f"  {'':<14} reads: {check.reads}; writes: {', '.join(f'scores.{s}' for s in check.scores_of(config))}"
        )
    ctx.exit()
