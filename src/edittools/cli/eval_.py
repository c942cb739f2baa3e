"""`edit eval`"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.errors import EditError, TooManyFailed, UsageError

if TYPE_CHECKING:
    from edittools.bench.terminal import Listing

_OWN = ("heldout", "dataset", "pairwise")
_FIGURES = ("table", "markdown", "latex", "json")


class EvalCommand(options.Command):
    """`edit eval study ...` and `edit eval checkpoints ...` are commands of their own."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        if args[:1] == ["study"]:
            from edittools.cli.eval_study import command as study

            return study.make_context(f"{info_name} study", args[1:], *rest, **extra)
        if args[:1] == ["checkpoints"]:
            from edittools.cli.eval_checkpoints import command as checkpoints

            return checkpoints.make_context(f"{info_name} checkpoints", args[1:], *rest, **extra)
        return super().make_context(info_name, args, *rest, **extra)


@options.command(
    "eval",
    cls=EvalCommand,
    cost="Reads once; keeps the scores and references of every row, and decodes only the pictures it shows.",
    examples=(
        ("edit eval heldout judged/ --run run/ -o report.html", "table on the terminal, HTML and JSON files"),
        ("edit eval heldout judged/ -f json | jq .mean", "the figures for another program"),
        ("edit eval gedit --cases GEdit-Bench/ | edit sample --model run/ -o results/", "edit a benchmark's cases"),
        (
            "edit eval gedit --cases GEdit-Bench/ --results out/their-model/ | edit judge --rubric gedit --prompts "
            "Step1X-Edit/ --model gpt-4.1 -o judged/",
            "judge what another model made",
        ),
        ("edit eval gedit results/ --export out/my-model/", "the pictures where the official judge script looks"),
        ("edit eval gedit --rescore results/ -f json", "score again what the official judge script wrote, offline"),
        ("edit eval imgedit --rescore result.json --meta basic_edit.json", "the official means, and ours beside them"),
    ),
)
@click.argument("bench", type=click.Choice([*_OWN, *options.module_names("bench", "public")]))
@options.input_options
@options.option(
    "--rescore",
    metavar="PATH",
    group="Input",
    help="Score again the files that a benchmark's official script wrote: GEdit-Bench's folder of CSV files or any "
    "parent, ImgEdit's result.json(l), REDEdit-Bench's evaluation_details.json, RISEBench's replies as JSON, "
    "KRIS-Bench's folder of metrics.json. Reads nothing else, and calls no model.",
)
@options.option(
    "--cases",
    metavar="PATH",
    group="Input",
    help="List what a benchmark wants generated, out of your copy of it, as rows that `edit sample` reads; -o and -f "
    "say where to and how, as in every command that writes rows.",
)
@options.option(
    "--images",
    metavar="DIR/",
    group="Input",
    help="Root of the pictures that a list of --cases names, where it is not the list's own folder.",
)
@options.option(
    "--results",
    metavar="DIR/",
    group="Input",
    help="Pictures that a model made elsewhere, in the official layout: the rows of --cases get them as `result`, for "
    "`edit judge`.",
)
@options.option(
    "--export",
    metavar="DIR/",
    group="Output",
    setting=False,
    help="Write the results of INPUT in the official layout, for the released judge script.",
)
@options.option(
    "--versus",
    metavar="NAME=PATH",
    multiple=True,
    group="Input",
    help="Judged rows of another model, to compare over the cases that all have; may be given several times.",
)
@options.option(
    "--judge-run",
    metavar="NAME=PATH",
    multiple=True,
    group="Input",
    help="The same results judged by another judge, or by this one again: how far the two agree, and which cases "
    "moved; of a PATH with several judges NAME is the one. May be given several times.",
)
@options.option(
    "--models",
    metavar="FIRST,SECOND",
    group="Input",
    help="Of BENCH pairwise: the two columns that name the models of a row's `result` and of its second one, or the "
    "two names. Default: the columns model_a and model_b, where there are such.",
)
@options.option(
    "--pair",
    metavar="FIRST,SECOND=PATH",
    multiple=True,
    group="Input",
    help="Of BENCH pairwise: further rows, in which one model is compared to another; may be given several times.",
)
@options.option(
    "--cluster",
    metavar="COLUMN",
    group="Input",
    help="Of BENCH pairwise: rows with the same value are about the same case. Default: the benchmark's case, `group`, "
    "or the id.",
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
@options.option(
    "--outputs",
    metavar="DIR/",
    group="Output",
    setting=False,
    help="Write what the official judge script would have written: score files that others can check.",
)
@options.option(
    "--meta",
    metavar="PATH",
    group="Input",
    help="Your copy of the benchmark (or its list of cases): what is expected of every task.",
)
@options.option(
    "--language",
    metavar="L",
    group="Selection",
    help="One language of GEdit-Bench or REDEdit-Bench: en (also eng), or cn (also zh).",
)
@options.option(
    "--suite",
    metavar="NAME",
    group="Selection",
    help="Suite of ImgEdit-Bench: basic (default), uge, or multiturn with --cases (it has no rubric; ours is `edit "
    "judge --rubric multiturn`); or text, REDEdit-Bench's text task "
    "by the four questions of `edit judge --rubric text` and by `edit judge --ocr`.",
)
@options.option(
    "--judge",
    metavar="NAME",
    group="Selection",
    help="Whose scores to use where several have judged (`edit judge --judge`): a name, `plain` for the judge without "
    "one, or `all` for the mean over them, with how far they agree and the official numbers judge by judge.",
)
@options.option(
    "--name",
    metavar="MODEL",
    group="Selection",
    help="What the model is called in tables and files; with --rescore, whose score files, where there are several.",
)
@options.option(
    "--scoring",
    type=click.Choice(["strict", "official"]),
    default="strict",
    show_default=True,
    group="Output",
    help="What the table lists: every task of ours beside the official mean, or what the official script prints.",
)
@options.option("--run", "run_folder", metavar="DIR/", group="Input", help="Run folder, for the loss curve.")
@options.option(
    "--data",
    metavar="PATH",
    group="Input",
    help="Data set whose statistics the report shows. Default: the rows that are evaluated.",
)
@options.option("--title", group="Output", help="Of the report.")
@options.option(
    "-o",
    "--output",
    metavar="PATH",
    group="Output",
    setting=False,
    help="Write the HTML report here (X.html), and the figures beside it as X.json. With --cases: the rows.",
)
@options.option(
    "-f",
    "--format",
    type=click.Choice(["table", "markdown", "latex", "json", "shards", "tar", "parquet", "arrows", "jsonl"]),
    group="Output",
    setting=False,
    help="What goes to standard output: a table on a terminal, JSON elsewhere. With --cases: the format of the rows.",
)
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace a report that exists.")
@options.bootstrap_seed_option
@options.config_option
@click.pass_context
def command(
    ctx: click.Context,
    bench: str,
    input: tuple[str, ...],
    run_folder: str | None,
    data: str | None,
    title: str | None,
    output: str | None,
    format: str | None,
    overwrite: bool,
    seed: int,
    **given: object,
) -> None:
    """Report how well a model edits: held-out rows with ground truth, or a public benchmark.

    BENCH heldout: rows with ground truth, edited by `edit sample` and scored by `edit judge`. Per kind of edit and in
    the mean: PSNR with a 95% bootstrap interval, copying the source, inside the mask, with shuffled instructions
    where `result_shuffled` was sampled, coverage; a gallery of the worst and best cases; what the data consist of.

    BENCH dataset: what rows consist of, as in ImgEdit's table 1: sizes, formats, tasks, distinct words, share of tiny
    edits, scores; and the share that a classifier's stored probability detects (`edit filter --image result
    --classifier NAME --label fake --max ..`: the fake score).

    BENCH pairwise: rows in which two models' results were compared (`edit judge --rubric pairwise`): win rates and Elo
    points by Bradley and Terry's model with ties, with 95% intervals over cases.

    The public benchmarks with --rescore: `official` is what the released scripts compute, with their NaNs, roundings
    and defects; beside it our own means with 95% bootstrap intervals, over tasks (macro) and cases (micro), with caps
    enforced, and the coverage: a failed or missing case is counted, never scored.

    Without --rescore INPUT are the rows of --cases, edited by `edit sample` (or elsewhere: --results) and judged by
    `edit judge --rubric BENCH`.
    Studies with people: `edit eval study build` and `edit eval study score`. The models that a training run has kept,
    side by side: `edit eval checkpoints RUN`.
    """
    _refuse_unused(ctx, bench)
    chosen = format or ("table" if os.isatty(1) else "json")
    if chosen not in _FIGURES and ctx.params["cases"] is None:
        raise UsageError(f"-f {chosen} is for the rows of --cases")
    if ctx.params["rescore"] is not None:
        _rescore(ctx, bench, chosen)
        return
    if ctx.params["cases"] is not None:
        _cases(ctx, bench)
        return
    if ctx.params["export"] is not None:
        _export(ctx, input)
        return
    if bench == "dataset":
        _dataset(ctx, list(input), chosen)
        return
    if bench == "pairwise":
        _pairwise(ctx, list(input), chosen)
        return
    if _text_subset_asked(ctx, bench):
        _text_subset(ctx, list(input), chosen)
        return
    if bench != "heldout":
        _judged(ctx, bench, list(input), chosen)
        return
    from edittools.bench.evaluate import Heldout
    from edittools.bench.terminal import summary_json, summary_latex, summary_markdown, summary_table
    from edittools.stream.run import RunOptions, open_input

    beside = _refuse_existing(output, overwrite)
    read = RunOptions(limit=ctx.params["limit"], partial=ctx.params["partial"])
    source = open_input(list(input), read)
    found = Heldout(source, open_input([data], RunOptions()) if data else None)
    if output is not None:
        _write_report(output, beside, found.html(title or "Held-out evaluation", run_folder), found.summary)
    for said in found.summary["warnings"]:
        click.echo(f"eval: warning: {said}", err=True)
    if chosen == "table":
        from rich.console import Console

        Console().print(summary_table(found.summary))
    else:
        printed = {"markdown": summary_markdown, "latex": summary_latex, "json": summary_json}[chosen]
        click.echo(printed(found.summary), nl=False)


# What each way of the command uses: an option that would do nothing is refused.
_PAGE = {"input", "partial", "limit", "title", "output", "format", "overwrite"}
_USED = {
    "--rescore": {"rescore", "meta", "name", "scoring", "title", "output", "format", "overwrite", "seed"},
    "--cases": {"cases", "images", "results", "limit", "output", "format", "overwrite"},
    "--export": {"export", "input", "partial", "overwrite"},
    "dataset": _PAGE,
    "pairwise": _PAGE | {"models", "pair", "cluster", "judge", "seed"},
    "heldout": _PAGE | {"run_folder", "data"},
    "--suite text": _PAGE | {"suite", "language", "meta", "judge", "seed"},
    "judged rows": _PAGE
    | {"versus", "judge_run", "humans", "humans_level", "outputs", "meta", "judge", "name", "scoring", "seed"},
}
_USED_BY = {  # and by some benchmarks
    "--rescore": {"gedit": {"language"}, "imgedit": {"suite"}},
    "--cases": {"gedit": {"language"}, "rededit": {"language", "suite"}, "imgedit": {"suite"}},
    "judged rows": {"gedit": {"language"}, "rededit": {"language"}, "imgedit": {"suite"}},
}
_NEEDS = {"humans_level": "humans", "title": "output", "run_folder": "output"}


def _refuse_unused(ctx: click.Context, bench: str) -> None:
    """Raises UsageError. A --config table is shared by all ways, so it may name what this one does not use."""
    asked = next((name for name in ("rescore", "cases", "export") if ctx.params[name] is not None), None)
    text = "--suite text" if _text_subset_asked(ctx, bench) else "judged rows"
    way = f"--{asked}" if asked else bench if bench in _USED else text
    used = {"bench", "config"} | _USED[way] | _USED_BY.get(way, {}).get(bench, set())
    where = way if way == bench else f"{way} of {bench}"
    options_of = {parameter.name: parameter.opts[-1] for parameter in ctx.command.params}
    for name, shown in options_of.items():
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if name not in used:
            raise UsageError(f"{'INPUT' if name == 'input' else shown} has no meaning with {where}")
        if name in _NEEDS and ctx.params[_NEEDS[name]] is None:
            raise UsageError(f"{shown} has no meaning without {options_of[_NEEDS[name]]}")


def _dataset(ctx: click.Context, input: list[str], chosen: str) -> None:
    from edittools.bench.evaluate import dataset_statistics
    from edittools.bench.report import render_dataset
    from edittools.bench.score_report import published_tables
    from edittools.bench.terminal import dataset_listings
    from edittools.stream.run import RunOptions, open_input

    given = ctx.params
    output = given["output"]
    beside = _refuse_existing(output, given["overwrite"])
    source = open_input(input, RunOptions(limit=given["limit"], partial=given["partial"]))
    found = dataset_statistics(source)
    if output is not None:
        title, history = given["title"] or "The data set", list(source.history.nodes)
        page = render_dataset(found, title=title, published=published_tables("dataset"), history=history)
        _write_report(output, beside, page, found)
    _print(found, dataset_listings(found), chosen)


def _pairwise(ctx: click.Context, input: list[str], chosen: str) -> None:
    from edittools.bench.pairwise import Comparison, read_comparisons, summarize
    from edittools.bench.score_report import render_listings
    from edittools.bench.terminal import pairwise_listings
    from edittools.stream.run import RunOptions, open_input

    given = ctx.params
    output = given["output"]
    beside = _refuse_existing(output, given["overwrite"])
    read = RunOptions(limit=given["limit"], partial=given["partial"])
    parts = [] if given["pair"] and not input else [(input, _two(given["models"], "--models"))]
    for word in given["pair"]:
        names, _, path = word.partition("=")
        parts.append(([path], _two(names, "--pair")))
    sources = [(open_input(paths, read), names) for paths, names in parts]
    comparisons: list[Comparison] = []
    judges: dict[str, set[str]] = {}
    for source, names in sources:
        read_here, by = read_comparisons(source, names, given["cluster"], given["judge"])
        comparisons += read_here
        for name, models in by.items():
            judges[name] = judges.get(name, set()) | models
    found = summarize(comparisons, given["seed"])
    found["judges"] = {name: sorted(models) for name, models in judges.items()}
    told = "; ".join(f"{name} ({', '.join(models) or 'unknown'})" for name, models in found["judges"].items())
    found["notes"].append(f"judge: {told}" + (", the mean over them" if len(judges) > 1 else ""))
    listings = pairwise_listings(found)
    if output is not None:
        page = render_listings(
            listings,
            found["warnings"],
            title=given["title"] or "Models compared two by two",
            summary=f"{found['comparisons']:,} comparisons of {found['cases']:,} cases; {found['failed']:,} failed.",
            history=[node for source, _ in sources for node in source.history.nodes],
        )
        _write_report(output, beside, page, found)
    _print(found, listings, chosen)


def _two(words: str | None, option: str) -> tuple[str, str] | None:
    """Raises UsageError."""
    if words is None:
        return None
    first, _, second = words.partition(",")
    if not first or not second or first == second:
        raise UsageError(f"{option} {words}: expected two names, FIRST,SECOND")
    return first, second


def _cases(ctx: click.Context, bench: str) -> None:
    from pathlib import Path

    from edittools.bench.case_list import CaseSource, expected_counts
    from edittools.bench.public import benchmarks
    from edittools.stream.run import run

    if bench not in benchmarks():
        raise UsageError(f"{bench} has no list of cases")
    given = ctx.params
    path = Path(given["cases"])
    if not path.exists():
        raise EditError(f"{path}: no such file or folder")
    run_options = options.run_settings(ctx)
    pictures = Path(given["images"]) if given["images"] else None
    results = Path(given["results"]) if given["results"] else None
    for folder in (pictures, results):
        if folder is not None and not folder.is_dir():
            raise EditError(f"{folder}: no such folder")
    found = benchmarks()[bench].cases(path, given["language"], given["suite"], pictures)
    if given["limit"] is not None:
        found = found[: given["limit"]]
    # The history travels with the rows: whoever evaluates them knows how many cases there were.
    settings = {"bench": bench, "cases": expected_counts(found)}
    run("eval", CaseSource(bench, given["suite"] or "", found, results), [], settings, run_options)


def _export(ctx: click.Context, input: tuple[str, ...]) -> None:
    from pathlib import Path

    from edittools.bench.case_list import export_results
    from edittools.stream.run import open_input

    run_options = options.run_settings(ctx)
    written, missing = export_results(open_input(list(input), run_options), Path(ctx.params["export"]),
                                      ctx.params["overwrite"])  # fmt: skip
    click.echo(f"eval: {written} results written; {len(missing)} rows without one", err=True)


def _judged(ctx: click.Context, bench: str, input: list[str], chosen: str) -> None:
    from pathlib import Path

    from edittools.bench.evaluation import JudgedBenchmark, compare_models
    from edittools.bench.judge_runs import compare_runs
    from edittools.bench.public import benchmarks, spoken_language
    from edittools.bench.score_report import render_scores
    from edittools.bench.terminal import ScoreTable
    from edittools.judges.judgements import ALL
    from edittools.stream.run import RunOptions, open_input

    given = ctx.params
    benchmark = benchmarks()[bench]
    if given["judge"] == ALL and (given["outputs"] or given["scoring"] == "official"):
        raise UsageError(
            f"--judge {ALL}: the released script knows of one judge", hint="--judge NAME has official numbers and files"
        )
    if given["suite"] is not None and given["meta"] is None:
        raise UsageError("--suite has no meaning without --meta: the rows say which suite they are of")
    output = given["output"]
    beside = _refuse_existing(output, given["overwrite"])
    listed = Path(given["meta"]) if given["meta"] else None
    cases = benchmark.cases(listed, given["language"], given["suite"], None) if listed is not None else None
    language = spoken_language(given["language"])
    read = RunOptions(limit=given["limit"], partial=given["partial"])
    kept = Path(given["outputs"]) if given["outputs"] else None
    if kept is not None and kept.is_dir() and any(kept.iterdir()) and not given["overwrite"]:
        raise EditError(f"{kept}: not empty", hint="replace what is there with --overwrite")
    wanted = (cases, language, given["limit"] is not None)
    asked = (*wanted, given["judge"])
    models = [JudgedBenchmark(benchmark, open_input(input, read), given["name"] or "model", *asked)]
    for name, path in _named(given["versus"], "--versus", models[0].name):
        models.append(JudgedBenchmark(benchmark, open_input([path], read), name, *asked))
    metric = list(benchmark.metrics)[-1]
    found = models[0].summary(kept, given["seed"])
    if len(models) > 1:
        found["comparison"] = compare_models(models, metric, given["seed"])
    runs = {}
    for name, path in _named(given["judge_run"], "--judge-run", models[0].name):
        run = JudgedBenchmark(benchmark, open_input([path], read), name, *wanted, otherwise=name)
        runs[name] = compare_runs(models[0], run, metric, given["seed"])
    if runs:
        found["judge_runs"] = runs
    if given["humans"] is not None:
        from edittools.judges.agreement import agreement, read_ratings

        found["agreement"] = agreement(models[0].judged_scores(), read_ratings(given["humans"]), given["humans_level"])
    if output is not None:
        page = render_scores(
            benchmark,
            found,
            models[0].shown(metric),
            name=models[0].name,
            title=given["title"] or f"{bench}: {models[0].name}",
            scoring=given["scoring"],
            protocol=models[0].facts,
            history=models[0].history,
        )
        _write_report(output, beside, page, found)
    _print(found, ScoreTable(found, list(benchmark.metrics), given["scoring"]).listings(), chosen)
    _refuse_nothing(found)


def _named(words: tuple[str, ...], option: str, taken: str) -> list[tuple[str, str]]:
    """Names and paths of NAME=PATH. Raises UsageError."""
    found: list[tuple[str, str]] = []
    for word in words:
        name, sign, path = word.partition("=")
        if not sign or not name or not path or name in [taken, *(one for one, _ in found)]:
            raise UsageError(f"{option} {word}: expected NAME=PATH, each name once")
        found.append((name, path))
    return found


def _text_subset_asked(ctx: click.Context, bench: str) -> bool:
    return bench == "rededit" and ctx.params["suite"] == "text"


def _text_subset(ctx: click.Context, input: list[str], chosen: str) -> None:
    from pathlib import Path

    from edittools.bench.public import benchmarks, spoken_language
    from edittools.bench.score_report import render_text_subset
    from edittools.bench.terminal import text_listings
    from edittools.bench.text_subset import SCALES, TextSubset
    from edittools.stream.run import RunOptions, open_input

    given = ctx.params
    output = given["output"]
    beside = _refuse_existing(output, given["overwrite"])
    cases = None
    if given["meta"]:
        cases = benchmarks()["rededit"].cases(Path(given["meta"]), given["language"], given["suite"], None)
    source = open_input(input, RunOptions(limit=given["limit"], partial=given["partial"]))
    subset = TextSubset(source, spoken_language(given["language"]), given["judge"])
    found = subset.summary(cases, given["seed"])
    listings = text_listings(found)
    if output is not None:
        page = render_text_subset(
            found, listings, subset.shown(), SCALES, title=given["title"] or "REDEdit-Bench, text subset",
            protocol=subset.facts, history=subset.history,
        )  # fmt: skip
        _write_report(output, beside, page, found)
    _print(found, listings, chosen)


def _write_report(output: str, beside: str, page: str, found: dict[str, Any]) -> None:
    from edittools.bench.terminal import summary_json
    from edittools.stream import files

    files.write_bytes(beside, summary_json(found).encode())
    files.write_bytes(output, page.encode("utf-8", "replace"))


def _refuse_existing(output: str | None, overwrite: bool) -> str:
    """Where the figures go beside the report. Raises UsageError and EditError."""
    from edittools.stream import files

    if output is None:
        return ""
    if not output.endswith(".html"):
        raise UsageError(f"-o {output}: a report ends in .html")
    beside = output[: -len(".html")] + ".json"
    for path in (output, beside):
        files.refuse_existing(path, overwrite)
    return beside


def _print(found: dict[str, Any], listings: list[Listing], chosen: str) -> None:
    from edittools.bench.terminal import latex, markdown, rich_tables, summary_json

    if chosen == "table":
        from rich.console import Console

        Console().print(*rich_tables(listings), sep="\n")
        return
    for said in found.get("warnings", ()):  # on standard output they may be read by a program only
        click.echo(f"eval: warning: {said}", err=True)
    text = summary_json(found) if chosen == "json" else (markdown if chosen == "markdown" else latex)(listings)
    click.echo(text, nl=False)


def _refuse_nothing(found: dict[str, Any]) -> None:
    """Raises TooManyFailed where there are cases, and neither we nor the released script have a score of any."""
    from edittools.bench.terminal import ScoreTable

    tables = ScoreTable(found, [], "strict")
    totals = [tables.part("coverage", language)["total"] for language in tables.languages]
    failed = sum(total["failed"] + (total["missing"] or 0) for total in totals)
    scored = any(
        total["judged"] or tables.official_means(language)[0] for total, language in zip(totals, tables.languages)
    )
    if failed and not scored:
        reasons = {
            why: n for language in tables.languages for why, n in tables.part("strict", language)["reasons"].items()
        }
        raise TooManyFailed(
            f"none of {failed} cases has a score",
            hint=f"most often: {max(reasons, key=lambda why: reasons[why])}" if reasons else None,
        )


def _rescore(ctx: click.Context, bench: str, chosen: str) -> None:
    """Without torch: it is to take a moment only."""
    from pathlib import Path

    from edittools.bench.public import Outputs, benchmarks
    from edittools.bench.rescoring import rescore
    from edittools.bench.terminal import ScoreTable

    if bench not in benchmarks():
        raise UsageError(f"{bench} has no official outputs to score again")
    given = ctx.params
    output = given["output"]
    beside = _refuse_existing(output, given["overwrite"])
    path = Path(given["rescore"])
    if not path.exists():
        raise EditError(f"{path}: no such file or folder")
    meta = Path(given["meta"]) if given["meta"] else None
    outputs = Outputs(path, meta, given["language"], given["suite"], given["name"])
    benchmark = benchmarks()[bench]
    found = rescore(benchmark, outputs, given["seed"])
    if output is not None:
        from edittools.bench.score_report import render_scores

        name = given["name"] or "model"
        page = render_scores(
            benchmark, found, [], name=name, title=given["title"] or f"{bench}: {name}", scoring=given["scoring"],
            protocol={}, history=[],
        )  # fmt: skip
        _write_report(output, beside, page, found)
    _print(found, ScoreTable(found, list(benchmark.metrics), given["scoring"]).listings(), chosen)
