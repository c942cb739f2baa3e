"""`edit eval cases`"""

from __future__ import annotations

from pathlib import Path

import click

from edittools.cli import options
from edittools.cli.benchmarks import bench_argument, choice_options, chosen, examples_of
from edittools.errors import EditError


@options.command(
    "eval cases",
    cost="Reads the list of cases; images are read when the rows are.",
    examples=examples_of("cases"),
)
@bench_argument
@click.argument("path", shell_complete=options.complete_path)
@options.option(
    "--images",
    metavar="DIR/",
    group="Input",
    help="Root of the images that the list names, where it is not the list's own folder.",
)
@options.option(
    "--results",
    metavar="DIR/",
    group="Input",
    help="Images that a model made elsewhere, in the official layout: the rows get them as `result`, for `edit judge`.",
)
@choice_options("cases")
@options.option("--limit", type=click.IntRange(min=0), metavar="N", group="Input", help="The first N cases only.")
@options.write_options
@options.config_option
@options.quiet_option
@click.pass_context
def command(ctx: click.Context, /, bench: str, path: str, **given: object) -> None:
    """List the cases of a benchmark as rows that `edit sample` reads.

    BENCH is a public benchmark, PATH your copy of it. The rows say where the official layout wants the results
    (`edit eval export`) and what a judge is told (`edit judge --rubric BENCH`).
    """
    from edittools.bench.case_list import CaseSource, expected_counts
    from edittools.stream.run import run
    from edittools.suites import load_benchmark

    benchmark = load_benchmark(bench)
    language, suite = (chosen(ctx, benchmark, "cases", name) for name in ("language", "suite"))
    if not Path(path).exists():
        raise EditError(f"{path}: no such file or folder")
    run_options = options.run_settings(ctx)
    images, results = (Path(ctx.params[name]) if ctx.params[name] else None for name in ("images", "results"))
    for folder in (images, results):
        if folder is not None and not folder.is_dir():
            raise EditError(f"{folder}: no such folder")
    found = benchmark.cases(Path(path), language, suite, images)
    if ctx.params["limit"] is not None:
        found = found[: ctx.params["limit"]]
    # The history travels with the rows: whoever evaluates them knows how many cases there were.
    settings = {"bench": bench, "cases": expected_counts(found)}
    run("eval", CaseSource(bench, suite or "", found, results), [], settings, run_options)
