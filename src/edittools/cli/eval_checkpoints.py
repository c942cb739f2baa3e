"""`edit eval checkpoints`"""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from edittools.cli import options
from edittools.errors import EditError, UsageError
from edittools.sample.config import SampleConfig

SAMPLED = ("max_pixels", "steps", "guidance_scale", "resolution", "device", "dtype", "batch_size", "seed")
"""What of `edit sample` can be told here."""


@options.command(
    "eval checkpoints",
    cost="Edits every row with every kept model, one model after the other; what is there already is not made again.",
    examples=(
        ("edit eval checkpoints run/ -o checkpoints.html", "of a run with --heldout and `keep_every`"),
        ("edit eval checkpoints run/ heldout/ --limit 100 --device cuda --dtype bfloat16", "by these rows"),
        (
            "edit eval checkpoints run/ --judge-args '--rubric viescore --model gpt-4.1'",
            "with a judge's scores too; or run `edit judge run/eval/@2000 ... -o run/eval/@2000.judged` oneself",
        ),
        ("edit eval checkpoints run/ --no-sample -f json", "what is known already"),
    ),
)
@click.argument("run", metavar="RUN")
@click.argument("rows", metavar="[ROWS]...", nargs=-1)
@options.option("--limit", type=click.IntRange(min=1), metavar="N", group="Input", help="The first N rows.")
@options.option(
    "--judged", metavar="STEP=PATH", multiple=True, group="Input",
    help="Judged rows that the model of a step has made, where they do not lie in RUN/eval/ as @STEP.NAME/.",
)  # fmt: skip
@options.option(
    "--judge-args", metavar="ARGUMENTS", group="Model",
    help="Also judge what each model has made, by `edit judge ARGUMENTS` (without a --rubric `edit score ARGUMENTS`), "
    "as in --judge-args '--rubric viescore --model "
    "gpt-4.1'; into RUN/eval/@STEP.judged/.",
)  # fmt: skip
@options.option(
    "--no-sample", is_flag=True, group="Model", help="Edit nothing: only what has been measured and judged before."
)
@options.config_options(SampleConfig, only=SAMPLED)
@options.option("--title", group="Output", help="Of the page.")
@options.option(
    "-o", "--output", metavar="FILE.html", group="Output", setting=False,
    help="Write the table and the curves of the run as a page, and the figures beside it as FILE.json.",
)  # fmt: skip
@options.option(
    "-f",
    "--format",
    type=click.Choice(["table", "markdown", "latex", "json"]),
    group="Output",
    setting=False,
    help="What goes to standard output: a table on a terminal, JSON elsewhere.",
)
@options.option(
    "--overwrite", is_flag=True, group="Output", setting=False, help="Replace what other settings or rows have made."
)
@options.option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No progress.")
@options.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", group="Run", setting=False,
    help="Threads that measure. Default: one per core.",
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, run: str, rows: tuple[str, ...], **given: Any) -> None:
    """Compare the models that a run has kept, in one table with 95% intervals.

    Of every kept model (`keep_every` of the recipe) and of the one that the run has left: the held-out losses that
    `edit train --heldout` wrote, and the scores of ROWS as it edits them: measured against the truth as `edit score`
    does, and by models where such scores are found. ROWS are those of --heldout unless named. The edited rows lie in
    RUN/eval/@STEP/.
    """
    from edittools.bench import checkpoints
    from edittools.bench.terminal import summary_json
    from edittools.stream import files
    from edittools.stream.run import RunOptions, open_input

    folder = Path(run)
    if not (folder / "config.json").is_file():
        raise EditError(f"{run}: no run folder of `edit train`")
    models = checkpoints.kept_models(folder)
    page, beside = _report_paths(given)
    places = _judged_places(folder, models, given["judged"])
    wanted = list(rows) or checkpoints.heldout_rows(folder)
    if given["no_sample"] and (rows or given["judge_args"]):
        raise UsageError(f"{'ROWS have' if rows else '--judge-args has'} no meaning with --no-sample")
    if wanted and not given["no_sample"]:
        _edit_rows(ctx, folder, models, wanted, places)
    elif not rows and not given["no_sample"] and not given["quiet"]:
        hint = "`edit train --heldout ROWS` remembers rows; or name some here"
        click.echo(f"eval: no rows to edit: the losses alone\nhint: {hint}", err=True)
    unique = {step: list(dict.fromkeys(paths)) for step, paths in places.items()}
    judged = {step: [open_input([path], RunOptions()) for path in paths] for step, paths in unique.items()}
    found = checkpoints.summarize(folder, judged)
    if page is not None:
        html = checkpoints.render(found, folder, given["title"] or f"Checkpoints of {folder.name}")
        files.write_bytes(beside, summary_json(found).encode())
        files.write_bytes(page, html.encode("utf-8", "replace"))
    _print(found, given["format"] or ("table" if os.isatty(1) else "json"))


def _report_paths(given: dict[str, Any]) -> tuple[str | None, str]:
    """Where the page and its figures go, if anywhere. Raises UsageError, EditError."""
    from edittools.stream import files

    page = given["output"]
    if page is None:
        if given["title"]:
            raise UsageError("--title has no meaning without --output")
        return None, ""
    if not page.endswith(".html"):
        raise UsageError(f"-o {page}: a report ends in .html")
    beside = page[: -len(".html")] + ".json"
    for path in (page, beside):
        files.refuse_existing(path, given["overwrite"])
    return page, beside


def _edit_rows(
    ctx: click.Context, run: Path, models: dict[int, Path], rows: list[str], places: dict[int, list[str]]
) -> None:
    """Edit rows with every model, and judge them if that is asked for; `places` takes in where the results lie."""
    from edittools.bench import checkpoints

    given = ctx.params
    for step, model in models.items():
        made = run / checkpoints.FOLDER / f"@{step}"
        _measure(ctx, str(model), rows, made)
        places[step].insert(0, str(made))
        if given["judge_args"] is not None:
            _judge([str(made), *shlex.split(given["judge_args"]), "-o", f"{made}.judged/"], given)
            places[step].append(f"{made}.judged")


def _print(found: dict[str, Any], format: str) -> None:
    from edittools.bench import checkpoints
    from edittools.bench.terminal import latex, markdown, rich_tables, summary_json

    listings = [checkpoints.listing(found)]
    if format == "table":
        from rich.console import Console

        Console().print(*rich_tables(listings), sep="\n")
        return
    printed = summary_json(found) if format == "json" else (markdown if format == "markdown" else latex)(listings)
    click.echo(printed, nl=False)


def _judged_places(run: Path, models: dict[int, Path], given: tuple[str, ...]) -> dict[int, list[str]]:
    """Where rows lie that each step's model has made. Raises UsageError."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((run / "eval").glob("@*")):
        step = path.name[1:].partition(".")[0]
        if not step.isdecimal() or int(step) not in models:
            continue
        if path.is_dir() and not (path / "_end.json").exists():
            if "." in path.name:  # the others are what this command makes
                click.echo(f"eval: {path} is not finished: left out", err=True)
        else:
            found[int(step)].append(str(path))
    for word in given:
        step, sign, place = word.partition("=")
        if not sign or not place or not step.lstrip("@").isdecimal() or int(step.lstrip("@")) not in models:
            there = ", ".join(map(str, models))
            raise UsageError(f"--judged {word}: expected STEP=PATH", hint=f"steps with a model: {there}")
        found[int(step.lstrip("@"))].append(place)
    return found


def _measure(ctx: click.Context, model: str, rows: list[str], out: Path) -> None:
    """Edit rows with a model and compare the results with their targets, into a shard set."""
    from edittools.sample.stage import SampleStage
    from edittools.score.config import ScoreConfig
    from edittools.score.stage import ScoreStage
    from edittools.stream.run import RunOptions, open_input, run
    from edittools.weights.digest import model_digest

    given = ctx.params
    run_options = RunOptions(
        output=f"{out}/", overwrite=given["overwrite"], limit=given["limit"], quiet=given["quiet"], max_errors="100%"
    )
    source = open_input(rows, run_options)
    told = {name: given[name] for name in SAMPLED if given[name] is not None}
    config = SampleConfig(model=model, **told)
    settings = {"model": model_digest(model), "limit": given["limit"], **told}
    del settings["max_pixels"]
    settings = {name: value for name, value in settings.items() if value is not None}
    score = ScoreStage(ScoreConfig(max_pixels=given["max_pixels"]), jobs=options.jobs(ctx))
    run("eval", source, [SampleStage(config), score], settings, run_options)


def _judge(arguments: list[str], given: dict[str, Any]) -> None:
    """`edit judge` in this process, or, where no rubric is named, `edit score`."""
    from edittools.cli.judge import command as judge
    from edittools.cli.score import command as score

    flags = [*(["--overwrite"] if given["overwrite"] else []), *(["-q"] if given["quiet"] else [])]
    name, command = ("judge_args", judge) if "--rubric" in arguments else ("score", score)
    with command.make_context(name, [*arguments, *flags]) as context:
        command.invoke(context)
