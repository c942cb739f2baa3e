"""`edit eval compare`"""

from __future__ import annotations

import click

from edittools.cli import figures, options
from edittools.cli.benchmarks import bench_argument, choice_options, examples_of
from edittools.cli.eval_report import judged_options, named_paths, report_judged
from edittools.errors import UsageError
from edittools.suites import load_benchmark


@options.command(
    "eval compare",
    cost="Reads every model's rows once; keeps the scores and references of every row.",
    examples=examples_of("compare"),
)
@bench_argument
@click.argument("rows", nargs=-1, metavar="NAME=ROWS...")
@options.read_options
@choice_options("compare")
@judged_options
@figures.figure_options
@options.bootstrap_seed_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, bench: str, rows: tuple[str, ...], **given: object) -> None:
    """Compare the judged rows of several models over the cases that all have.

    BENCH is a public benchmark; NAME is what a model is called, ROWS are the judged rows of its results. The figures
    are those of `edit eval report` for the first model, and `comparison`: every model's mean over the common cases,
    and how each differs from the first, paired, with 95% intervals.
    """
    models = named_paths(rows, "argument")
    if len(models) < 2:
        raise UsageError("expected two models or more, NAME=ROWS", hint=f"edit eval compare {bench} a=A/ b=B/")
    report_judged(ctx, load_benchmark(bench), "compare", [(name, [path]) for name, path in models])
