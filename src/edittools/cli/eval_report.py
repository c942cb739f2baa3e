"""`edit eval report`"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import figures, options
from edittools.cli.benchmarks import choice_options, chosen, examples_of
from edittools.cli.eval_rescore import scoring_option
from edittools.errors import EditError, TooManyFailed, UsageError
from edittools.suites import benchmark_names, load_benchmark

if TYPE_CHECKING:
    from edittools.suites.shared.types import Benchmark

OTHERS = ("heldout", "pairwise")
"""Reports of something else than a public benchmark: commands of their own, with options of their own."""


class ReportCommand(options.Command):
    """`edit eval report heldout` and `edit eval report pairwise` are commands of their own."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        if args and args[0] in OTHERS:
            return other(args[0]).make_context(f"{info_name} {args[0]}", args[1:], *rest, **extra)
        return super().make_context(info_name, args, *rest, **extra)


def other(name: str) -> options.Command:
    command: options.Command = importlib.import_module(f"edittools.cli.eval_report_{name}").command
    return command


def judged_options(function: options.Function) -> options.Function:
    """What a report on one model and the comparison of several have in common."""
    for decorate in reversed((
        options.option(
            "--meta", metavar="PATH", group="Input",
            help="Your copy of the benchmark (or its list of cases): what is expected of every task.",
        ),
        options.option(
            "--judge", metavar="NAME",
            help="Whose scores to use where several have judged (`edit judge --judge`): a name, `plain` for the judge "
            "without one, `all` for the mean over them, with how far they agree and the official numbers judge by "
            "judge, or `ensemble` for what `edit judge --ensemble` made of them.",
        ),
        options.option(
            "--calibrated", is_flag=True,
            help="Use the scores that `edit judge --calibrate` put on people's scale, of those dimensions that have "
            "such; there are no official numbers of them.",
        ),
        scoring_option,
    )):  # fmt: skip
        function = decorate(function)
    return function


@options.command(
    "eval report",
    cls=ReportCommand,
    cost="Reads once; keeps the scores and references of every row, and decodes only the images it shows.",
    examples=examples_of(
        "report",
        ("edit eval report heldout judged/ --run run/ -o report.html", "held-out rows: table, HTML and JSON files"),
        ("edit eval report pairwise judged/ -o pairwise.html", "win rates and Elo points"),
    ),
)
@click.argument("bench", type=click.Choice([*OTHERS, *benchmark_names()]))
@options.input_options
@options.option(
    "--judge-run",
    metavar="NAME=PATH",
    multiple=True,
    group="Input",
    help="The same results judged by another judge, or by this one again: how far the two agree, and which cases "
    "moved; of a PATH with several judges NAME is the one. May be given several times.",
)
@options.option(
    "--humans",
    metavar="FILE",
    group="Input",
    help="Human ratings (CSV or Parquet: id, score, and rater and dimension where there are several): how near the "
    "judge comes to them - share within 1, Spearman, Krippendorff's alpha.",
)
@options.option(
    "--humans-level",
    type=click.Choice(["nominal", "ordinal", "interval"]),
    default="ordinal",
    show_default=True,
    group="Input",
    help="What the ratings are, for Krippendorff's alpha.",
)
@choice_options("report")
@judged_options
@options.option("--name", metavar="MODEL", help="What the model is called in tables and files.")
@options.option(
    "--outputs",
    metavar="DIR/",
    group="Output",
    setting=False,
    help="Write what the official judge script would have written: score files that others can check.",
)
@figures.figure_options
@options.bootstrap_seed_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, bench: str, input: tuple[str, ...], **given: object) -> None:
    """Report how well a model does on a public benchmark, on held-out rows, or against another model.

    BENCH is a public benchmark, and INPUT the rows of `edit eval cases`, edited by `edit sample` (or elsewhere: `edit
    eval cases --results`) and judged by `edit judge --rubric BENCH`. Our own means have 95% intervals, over
    tasks (macro) and cases (micro), and the coverage: a failed or missing case is counted, never scored. Beside them
    stands what the released scripts compute of the same replies, with their NaNs, roundings and defects.

    `edit eval report heldout` and `edit eval report pairwise` have pages and options of their own; models over the same
    cases are compared by `edit eval compare`.
    """
    benchmark = load_benchmark(bench)
    copy = f"edit eval cases {bench} COPY/ | edit sample --model M | edit judge --rubric {bench} --model J -o JUDGED/"
    figures.need_input(
        ctx,
        f"report {bench}",
        "the benchmark's cases, edited and judged; COPY/ is your download of it",
        f"{copy}; or edit eval rescore {bench} FILES scores again what the official script wrote",
    )
    if ctx.params["humans"] is None:
        options.refuse(ctx, ("humans_level",), "has no meaning without --humans")
    suite = chosen(ctx, benchmark, "report", "suite")
    if suite is not None and suite == benchmark.text_suite:
        _text_subset(ctx, benchmark, list(input))
        return
    report_judged(ctx, benchmark, "report", [(ctx.params["name"] or "model", list(input))])


def report_judged(ctx: click.Context, benchmark: Benchmark, verb: str, models: list[tuple[str, list[str]]]) -> None:
    """The figures of the first of the named models' judged rows, and, where there are several, how they compare."""
    from edittools.bench.evaluation import JudgedBenchmark, compare_models
    from edittools.bench.judge_runs import compare_runs
    from edittools.bench.score_report import render_scores
    from edittools.bench.terminal import ScoreTable
    from edittools.stream.run import RunOptions, open_input
    from edittools.suites.shared.types import spoken_language

    params = ctx.params
    _refuse_official(params, benchmark)
    language, suite = (chosen(ctx, benchmark, verb, name) for name in ("language", "suite"))
    if suite is not None and params["meta"] is None:
        raise UsageError("--suite has no meaning without --meta: the rows say which suite they are of")
    output = params["output"]
    beside = figures.place_of_figures(ctx)
    listed = Path(params["meta"]) if params["meta"] else None
    cases = benchmark.cases(listed, language, suite, None) if listed is not None else None
    read = RunOptions(limit=params["limit"], partial=params["partial"])
    outputs = Path(params["outputs"]) if params.get("outputs") else None
    if outputs is not None and outputs.is_dir() and any(outputs.iterdir()) and not params["overwrite"]:
        raise EditError(f"{outputs}: not empty", hint="replace what is there with --overwrite")
    wanted = (cases, spoken_language(language), params["limit"] is not None)
    scale = params["calibrated"]
    asked = (*wanted, params["judge"], None, scale)
    judged = [JudgedBenchmark(benchmark, open_input(paths, read), name, *asked) for name, paths in models]
    metric = list(benchmark.metrics)[-1]
    report = judged[0].summary(outputs, params["seed"])
    if len(judged) > 1:
        report["comparison"] = compare_models(judged, metric, params["seed"])
    runs = {}
    for name, path in named_paths(params.get("judge_run") or (), "--judge-run", judged[0].name):
        run = JudgedBenchmark(benchmark, open_input([path], read), name, *wanted, otherwise=name, calibrated=scale)
        runs[name] = compare_runs(judged[0], run, metric, params["seed"])
    if runs:
        report["judge_runs"] = runs
    if params.get("humans") is not None:
        from edittools.judge.agreement import agreement, read_ratings

        report["agreement"] = agreement(
            judged[0].judged_scores(), read_ratings(params["humans"]), params["humans_level"]
        )
    if output is not None:
        page = render_scores(
            benchmark,
            report,
            judged[0].shown(metric),
            name=judged[0].name,
            title=params["title"] or f"{benchmark.title}: {judged[0].name}",
            scoring=params["scoring"],
            protocol=judged[0].facts,
            history=judged[0].history,
        )
        figures.write_report(output, beside, page, report)
    listings = ScoreTable(report, list(benchmark.metrics), params["scoring"]).listings()
    figures.print_figures(report, listings, figures.format_of(ctx))
    figures.refuse_nothing(report)


def _refuse_official(params: dict[str, Any], benchmark: Benchmark) -> None:
    """Raises UsageError where official numbers are asked for and no script, or no single judge's replies, are there."""
    from edittools.rubric.names import ALL, ENSEMBLE

    asked = params.get("outputs") or params["scoring"] == "official"
    if asked and benchmark.write is None:
        raise UsageError(f"--outputs, --scoring official: {benchmark.title} has no script of its own")
    mixed = f"--judge {params['judge']}" if params["judge"] in (ALL, ENSEMBLE) else ""
    why = "--calibrated" if params["calibrated"] else mixed
    if why and asked:
        raise UsageError(
            f"{why}: the released script knows only one judge's replies",
            hint="--judge NAME has official numbers and files",
        )


def named_paths(words: tuple[str, ...], option: str, *taken: str) -> list[tuple[str, str]]:
    """Names and paths of NAME=PATH. Raises UsageError."""
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, sign, path = word.partition("=")
        if not sign or not name or not path or name in [*taken, *(one for one, _ in pairs)]:
            raise UsageError(f"{option} {word}: expected NAME=PATH, each name once")
        pairs.append((name, path))
    return pairs


_OF_TEXT = ("judge_run", "humans", "humans_level", "calibrated", "scoring", "name", "outputs")


def _text_subset(ctx: click.Context, benchmark: Benchmark, input: list[str]) -> None:
    from edittools.bench.score_report import render_text_subset
    from edittools.bench.terminal import text_listings
    from edittools.bench.text_subset import SCALES, TextSubset
    from edittools.stream.run import RunOptions, open_input
    from edittools.suites.shared.types import spoken_language

    params = ctx.params
    output, suite = params["output"], benchmark.text_suite
    options.refuse(ctx, _OF_TEXT, f"has no meaning with --suite {suite}: there are questions of ours only")
    beside = figures.place_of_figures(ctx)
    language = chosen(ctx, benchmark, "report", "language")
    cases = benchmark.cases(Path(params["meta"]), language, suite, None) if params["meta"] else None
    source = open_input(input, RunOptions(limit=params["limit"], partial=params["partial"]))
    subset = TextSubset(benchmark, source, spoken_language(language), params["judge"])
    report = subset.summary(cases, params["seed"])
    listings = text_listings(report)
    if output is not None:
        page = render_text_subset(
            report, listings, subset.shown(), subset.about, SCALES,
            title=params["title"] or f"{benchmark.title}, text subset", protocol=subset.facts, history=subset.history,
        )  # fmt: skip
        figures.write_report(output, beside, page, report)
    figures.print_figures(report, listings, figures.format_of(ctx))
    if not any(entry["n"] for entry in report["metrics"].values()):
        reasons = [why for counted in report["reasons"].values() for why in counted]
        raise TooManyFailed("no case has a score", hint=f"for one: {reasons[0]}" if reasons else None)
