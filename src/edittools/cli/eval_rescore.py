"""`edit eval rescore`"""

from __future__ import annotations

from pathlib import Path

import click

from edittools.cli import figures, options
from edittools.cli.benchmarks import bench_argument, choice_options, chosen, examples_of
from edittools.errors import EditError
from edittools.suites import benchmarks, load_benchmark

_OUTPUTS = ", ".join(f"{one.title}'s {one.outputs}" for one in benchmarks().values() if one.outputs)


def scoring_option(function: options.Function) -> options.Function:
    return options.option(
        "--scoring",
        type=click.Choice(["strict", "official"]),
        default="strict",
        show_default=True,
        group="Output",
        help="What the table lists: every task of ours beside the official mean, or what the official script prints.",
    )(function)


@options.command(
    "eval rescore", cost="Reads the files only: a moment, offline, without a model.", examples=examples_of("rescore")
)
@bench_argument
@click.argument("path", shell_complete=options.complete_path)
@options.option(
    "--meta",
    metavar="PATH",
    group="Input",
    help="Your copy of the benchmark (or its list of cases): what is expected of every task.",
)
@choice_options("rescore")
@options.option("--name", metavar="MODEL", help="Whose score files, where there are several; and what it is called.")
@scoring_option
@figures.figure_options
@options.bootstrap_seed_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, bench: str, path: str, seed: int, **given: object) -> None:
    """Score again what a benchmark's official script wrote: its own numbers, and ours beside them.

    `official` is what the released scripts compute, with their NaNs, roundings and defects; beside it our own means
    with 95% intervals, over tasks (macro) and cases (micro), with caps enforced, and the coverage: a failed
    or missing case is counted, never scored.

    PATH is what the script wrote: OUTPUTS.
    """
    from edittools.bench.rescoring import rescore
    from edittools.bench.terminal import ScoreTable
    from edittools.suites.shared.types import Outputs

    benchmark, params = load_benchmark(bench), ctx.params
    language, suite = (chosen(ctx, benchmark, "rescore", name) for name in ("language", "suite"))
    beside = figures.place_of_figures(ctx)
    if not Path(path).exists():
        raise EditError(f"{path}: no such file or folder")
    meta = Path(params["meta"]) if params["meta"] else None
    found = rescore(benchmark, Outputs(Path(path), meta, language, suite, params["name"]), seed)
    if params["output"] is not None:
        from edittools.bench.score_report import render_scores

        name = params["name"] or "model"
        page = render_scores(
            benchmark, found, [], name=name, title=params["title"] or f"{bench}: {name}", scoring=params["scoring"],
            protocol={}, history=[],
        )  # fmt: skip
        figures.write_report(params["output"], beside, page, found)
    listings = ScoreTable(found, list(benchmark.metrics), params["scoring"]).listings()
    figures.print_figures(found, listings, figures.format_of(ctx))
    figures.refuse_nothing(found)


command.help = (command.help or "").replace("OUTPUTS", _OUTPUTS)
