"""`edit eval checkpoints`"""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edittools.cli import options
from edittools.errors import EditError, UsageError


@options.command(
    "checkpoints",
    cost="Edits every row with every kept model, one model after the other; what is there already is not made again.",
    examples=(
        ("edit eval checkpoints run/ -o checkpoints.html", "of a run with --heldout and `keep_every`"),
        ("edit eval checkpoints run/ heldout/ --limit 100 --device cuda --dtype bfloat16", "by these rows"),
        (
            "edit eval checkpoints run/ --judge '--rubric viescore --model gpt-4.1'",
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
    "--judge", metavar="ARGUMENTS", group="Model",
    help="Also judge what each model has made, by `edit judge ARGUMENTS`, as in --judge '--rubric viescore --model "
    "gpt-4.1'; into RUN/eval/@STEP.judged/.",
)  # fmt: skip
@options.option(
    "--no-sample", is_flag=True, group="Model", help="Edit nothing: only what has been measured and judged before."
)
@options.option(
    "--steps", type=click.IntRange(min=1), metavar="N", group="Model", help="Sampling steps. Default: the model's own."
)
@options.option(
    "--guidance", type=float, metavar="SCALE", group="Model", help="Classifier-free guidance. Default: the model's own."
)
@options.option(
    "--side", type=click.IntRange(min=16), metavar="PIXELS", group="Model",
    help="Work at about PIXELS x PIXELS pixels, as in `edit sample`. Default: the model's own.",
)  # fmt: skip
@options.model_options
@options.seed_option
@options.pixel_option
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
def command(ctx: click.Context, run: str, rows: tuple[str, ...], **given: Any) -> None:
    """Compare the models that a run has kept, in one table with 95% intervals.

    Of every kept model (`keep_every` of the recipe) and of the one that the run has left: the held-out losses that
    `edit train --heldout` wrote, and the scores of ROWS as it edits them: measured against the truth as `edit judge`
    does, and by models where such scores are found. ROWS are those of --heldout unless named. The edited rows lie in
    RUN/eval/@STEP/.
    """
    from edittools.bench import checkpoints
    from edittools.bench.terminal import latex, markdown, rich_tables, summary_json
    from edittools.stream import files
    from edittools.stream.run import RunOptions, open_input

    folder = Path(run)
    if not (folder / "config.json").is_file():
        raise EditError(f"{run}: no run folder of `edit train`")
    models = checkpoints.kept_models(folder)
    chosen = given["format"] or ("table" if os.isatty(1) else "json")
    output = given["output"]
    beside = ""
    if output is not None:
        if not output.endswith(".html"):
            raise UsageError(f"-o {output}: a report ends in .html")
        beside = output[: -len(".html")] + ".json"
        for path in (output, beside):
            files.refuse_existing(path, given["overwrite"])
    elif given["title"]:
        raise UsageError("--title has no meaning without --output")
    places = _judged_places(folder, models, given["judged"])
    wanted = list(rows) or checkpoints.heldout_rows(folder)
    if given["no_sample"] and (rows or given["judge"]):
        raise UsageError(f"{'ROWS have' if rows else '--judge has'} no meaning with --no-sample")
    if wanted and not given["no_sample"]:
        for step, model in models.items():
            made = folder / checkpoints.FOLDER / f"@{step}"
            _measure(ctx, str(model), wanted, made)
            places[step].insert(0, str(made))
            if given["judge"] is not None:
                _judge([str(made), *shlex.split(given["judge"]), "-o", f"{made}.judged/"], given)
                places[step].append(f"{made}.judged")
    elif not rows and not given["no_sample"] and not given["quiet"]:
        hint = "`edit train --heldout ROWS` remembers rows; or name some here"
        click.echo(f"eval: no rows to edit: the losses alone\nhint: {hint}", err=True)
    unique = {step: list(dict.fromkeys(paths)) for step, paths in places.items()}
    judged = {step: [open_input([path], RunOptions()) for path in paths] for step, paths in unique.items()}
    found = checkpoints.summarize(folder, judged)
    if output is not None:
        page = checkpoints.render(found, folder, given["title"] or f"Checkpoints of {folder.name}")
        files.write_bytes(beside, summary_json(found).encode())
        files.write_bytes(output, page.encode("utf-8", "replace"))
    listings = [checkpoints.listing(found)]
    if chosen == "table":
        from rich.console import Console

        Console().print(*rich_tables(listings), sep="\n")
        return
    printed = summary_json(found) if chosen == "json" else (markdown if chosen == "markdown" else latex)(listings)
    click.echo(printed, nl=False)


def _judged_places(run: Path, models: dict[int, Path], given: tuple[str, ...]) -> dict[int, list[str]]:
    """Where rows lie that each step's model has made. Raises UsageError."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((run / "eval").glob("@*")):
        step = path.name[1:].partition(".")[0]
        if step.isdecimal() and int(step) in models:
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
    from edittools.judges.stage import JudgeStage
    from edittools.models.describe import describe_model
    from edittools.models.editors import load_editor
    from edittools.models.stage import SampleStage
    from edittools.stream.run import RunOptions, open_input, run

    given = ctx.params
    run_options = RunOptions(
        output=f"{out}/", overwrite=given["overwrite"], limit=given["limit"], quiet=given["quiet"], max_errors="100%"
    )
    source = open_input(rows, run_options)
    placed = options.device_and_dtype(given)
    extra = {name: given[name] for name in ("steps", "guidance", "side", "batch_size") if given[name] is not None}
    settings = {"model": describe_model(model), "seed": given["seed"], "limit": given["limit"], **placed, **extra}
    settings = {name: value for name, value in settings.items() if value is not None}

    sample = SampleStage(
        _Later(lambda: load_editor(model, placed["device"], placed["dtype"], **extra)),
        column="result", language=None, seed=given["seed"], shuffle=False, max_pixels=given["max_pixels"],
    )  # fmt: skip
    judge = JudgeStage(max_pixels=given["max_pixels"], jobs=options.jobs(ctx))
    run("eval", source, [sample, judge], settings, run_options)


def _judge(arguments: list[str], given: dict[str, Any]) -> None:
    """`edit judge` in this process."""
    from edittools.cli.judge import command as judge

    flags = [*(["--overwrite"] if given["overwrite"] else []), *(["-q"] if given["quiet"] else [])]
    with judge.make_context("judge", [*arguments, *flags]) as context:
        judge.invoke(context)


class _Later:
    """An editor that is loaded when it is first used: not where everything has been made before."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name == "_editor":
            self._editor = self._load()
            return self._editor
        return getattr(self._editor, name)
