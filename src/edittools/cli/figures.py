"""What every verb of `edit eval` does that ends in figures: a table or JSON on standard output, a report as HTML."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from edittools.cli import options
from edittools.errors import TooManyFailed, UsageError

if TYPE_CHECKING:
    from edittools.bench.terminal import ReportListing


def figure_options(function: options.Function) -> options.Function:
    """--title, -o, -f, --overwrite."""
    for decorate in reversed((
        options.option("--title", group="Output", help="Title of the report."),
        options.option(
            "-o", "--output", metavar="PATH", group="Output", setting=False,
            help="Write the HTML report here (X.html), and the figures beside it as X.json.",
        ),
        options.option(
            "-f", "--format", type=click.Choice(["table", "markdown", "latex", "json"]), group="Output", setting=False,
            help="What goes to standard output: a table on a terminal, JSON elsewhere.",
        ),
        options.option(
            "--overwrite", is_flag=True, group="Output", setting=False, help="Replace a report that exists."
        ),
    )):  # fmt: skip
        function = decorate(function)
    return function


def format_of(ctx: click.Context) -> str:
    given: str | None = ctx.params["format"]
    return given or ("table" if os.isatty(1) else "json")


def place_of_figures(ctx: click.Context, *for_the_report: str) -> str:
    """Where the figures go beside the report; refuses what exists, and options that only a report has a use for.
    Raises UsageError and EditError."""
    from edittools.stream import files

    output: str | None = ctx.params["output"]
    if output is None:
        options.refuse(ctx, ("title", *for_the_report), "has no meaning without --output")
        return ""
    if not output.endswith(".html"):
        raise UsageError(f"-o {output}: a report ends in .html")
    beside = output[: -len(".html")] + ".json"
    for path in (output, beside):
        files.refuse_existing(path, ctx.params["overwrite"])
    return beside


def write_report(output: str, beside: str, page: str, found: dict[str, Any]) -> None:
    from edittools.bench.terminal import summary_json
    from edittools.stream import files

    files.write_bytes(beside, summary_json(found).encode())
    files.write_bytes(output, page.encode("utf-8", "replace"))


def print_figures(found: dict[str, Any], listings: list[ReportListing], chosen: str) -> None:
    from edittools.bench.terminal import latex, markdown, rich_tables, summary_json

    if chosen == "table":
        from rich.console import Console

        Console().print(*rich_tables(listings), sep="\n")
        return
    for said in found.get("warnings", ()):  # on standard output they may be read by a program only
        click.echo(f"eval: warning: {said}", err=True)
    text = summary_json(found) if chosen == "json" else (markdown if chosen == "markdown" else latex)(listings)
    click.echo(text, nl=False)


def need_input(ctx: click.Context, asked: str, takes: str, hint: str) -> None:
    """Raises UsageError where there is neither INPUT nor a pipe: what is wanted, and where it comes from."""
    from edittools.stream.pipes import stdin_has_data

    if not ctx.params["input"] and not stdin_has_data():
        raise UsageError(f"no INPUT: edit eval {asked} takes {takes}", hint=hint)


def refuse_nothing(found: dict[str, Any]) -> None:
    """Raises TooManyFailed where there are cases, and neither we nor the released script have a score of any."""
    from edittools.bench.terminal import ScoreTable

    tables = ScoreTable(found, [], "strict")
    totals = [tables.part("coverage", language)["total"] for language in tables.languages]
    failed = sum(total["failed"] + (total["missing"] or 0) for total in totals)
    # NaN is a word in what was found.
    official = [mean for language in tables.languages for mean in tables.official_means(language)[0].values()]
    numbers = [value for one in official for value in one.values() if isinstance(value, float)]
    scored = numbers or any(total["judged"] for total in totals)
    if not scored:
        reasons = {
            why: n for language in tables.languages for why, n in tables.part("strict", language)["reasons"].items()
        }
        raise TooManyFailed(
            f"none of {failed} cases has a score" if failed else "there is no case with a score",
            hint=f"most often: {max(reasons, key=lambda why: reasons[why])}" if reasons else None,
        )
