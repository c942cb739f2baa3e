"""`edit filter`"""

from __future__ import annotations

from collections.abc import Callable

import click

from edittools.cli import options
from edittools.errors import UsageError


def _filter_options(function: Callable) -> Callable:
    """One option per file of filters/."""
    from edittools.filters import filters

    for item in reversed(list(filters().values())):
        function = options.option(item.flag, item.name, metavar="BOUND", help=f"{item.help} [{item.unit}]")(function)
    return function


@options.command(
    "filter",
    cost="Reads once and streams; decodes a picture at most once, and only for scores its row does not have yet. "
    "Bounds on quantiles (q05) take a second pass and 8 bytes per row and filter of temporary disk; of a pipe the "
    "references are kept in TMPDIR (about 100 bytes a row; pictures sent --inline are kept too).",
    examples=(
        ("edit filter raw/ --min-side 512 --sharpness q05 -o clean/", "no small pictures, not the 5% least sharp"),
        ("edit filter pairs/ --where \"scores.edit_ratio > 0.01 AND task <> 'text'\" -o kept/", "any column, as SQL"),
    ),
)
@options.input_options
@options.pixel_option
@_filter_options
@options.option("--where", metavar="EXPR", help="SQL expression over the row's columns that must be true (DuckDB).")
@options.option(
    "--image",
    type=click.Choice(["target", "source"]),
    default="target",
    show_default=True,
    help="Which picture is measured: the target (of a one-image row, the picture), or the first source.",
)
@options.option(
    "--step",
    type=click.Choice(["verdict"]),
    setting=False,
    group="Run",
    help="Only find the quantiles, and write them to -o FILE, for array tasks to read with --verdict.",
)
@options.option("--verdict", metavar="FILE", group="Run", setting=False, help="Quantiles found by --step verdict.")
@options.mark_option
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, input: tuple[str, ...], where: str | None, mark: str | None, **given: object) -> None:
    """Keep rows whose pictures and columns meet bounds.

    A BOUND is a number, A..B, or quantiles of the data itself: q05 is at least the 5% quantile, q01..q99 between
    two. `..` bounds nothing: the score is measured and stored in the column `scores`, where later commands find
    it without decoding anything. What is dropped goes to the rejects with its reason and measured value.
    """
    from edittools.filters import Bounds, filters
    from edittools.filters.stage import FilterStage
    from edittools.stream.run import open_input, run

    run_options = options.run_settings(ctx)
    wanted = [
        (item, Bounds.parse(str(ctx.params[name]), item.bare, item.flag))
        for name, item in filters().items()
        if ctx.params[name] is not None
    ]
    if not wanted and where is None:
        raise UsageError("no filter given", hint="see `edit filter --help` for what can be bounded")
    stage = FilterStage(
        wanted,
        where=where,
        image=ctx.params["image"],
        mark=mark,
        max_pixels=ctx.params["max_pixels"],
        jobs=options.jobs(ctx),
    )
    source = open_input(list(input), run_options)
    settings = options.settings(ctx)
    if ctx.params["verdict"]:
        stage.load_verdict(ctx.params["verdict"])
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    if ctx.params["step"] == "verdict":
        if run_options.output in (None, "-"):
            raise UsageError("--step verdict writes a file: name it with -o FILE")
        options.refuse_existing(run_options.output, run_options.overwrite)
        stage.gather(source.batches(lambda shard: True))
        stage.decide()
        stage.save_verdict(run_options.output)
        return
    run("filter", source, [stage], settings, run_options)
