"""`edit eval`"""

from __future__ import annotations

import os

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "eval",
    cost="Reads once; keeps the scores and references of every row, and decodes only the pictures it shows.",
    examples=(
        ("edit eval heldout judged/ --run run/ -o report.html", "table on the terminal, HTML and JSON files"),
        ("edit eval heldout judged/ -f json | jq .mean", "the figures for another program"),
    ),
)
@click.argument("bench", type=click.Choice(["heldout"]))
@options.input_options
@options.option("--run", "run_folder", metavar="DIR/", group="Input", help="Run folder, for the loss curve.")
@options.option(
    "--data",
    metavar="PATH",
    group="Input",
    help="Data set whose statistics the report shows. Default: the rows that are evaluated.",
)
@options.option("--title", default="Held-out evaluation", show_default=True, group="Output", help="Of the report.")
@options.option(
    "-o",
    "--output",
    metavar="X.html",
    group="Output",
    setting=False,
    help="Write the HTML report here, and the figures beside it as X.json.",
)
@options.option(
    "-f",
    "--format",
    type=click.Choice(["table", "markdown", "json"]),
    group="Output",
    setting=False,
    help="What goes to standard output. Default: a table on a terminal, JSON elsewhere.",
)
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace a report that exists.")
@options.seed_option
@click.pass_context
def command(
    ctx: click.Context,
    bench: str,
    input: tuple[str, ...],
    run_folder: str | None,
    data: str | None,
    title: str,
    output: str | None,
    format: str | None,
    overwrite: bool,
    seed: int,
    **given: object,
) -> None:
    """Report how well a model edits, beside copying the source.

    BENCH heldout: rows with ground truth, edited by `edit sample` and scored by `edit judge`. Per kind of edit and in
    the mean: PSNR with a 95% bootstrap interval, copying the source, inside the mask, with shuffled instructions
    where `result_shuffled` was sampled, coverage; a gallery of the worst and best cases; what the data consist of.
    """
    from edittools.bench.evaluate import Heldout
    from edittools.bench.terminal import summary_json, summary_markdown, summary_table
    from edittools.stream import files
    from edittools.stream.run import RunOptions, open_input, stdout_kind

    if output is not None:
        if not output.endswith(".html"):
            raise UsageError(f"-o {output}: a report ends in .html")
        beside = output[: -len(".html")] + ".json"
        for path in (output, beside):
            files.refuse_existing(path, overwrite)
    read = RunOptions(limit=ctx.params["limit"], partial=ctx.params["partial"])
    source = open_input(list(input), read)
    found = Heldout(source, open_input([data], RunOptions()) if data else None, seed)
    if output is not None:
        folder = os.path.dirname(output)
        if folder:
            files.make_dirs(folder)
        files.write_bytes(beside, (summary_json(found.summary) + "\n").encode())
        files.write_bytes(output, found.html(title, run_folder).encode())
    chosen = format or ("table" if stdout_kind() == "terminal" else "json")
    if chosen == "table":
        from rich.console import Console

        Console().print(summary_table(found.summary))
    else:
        click.echo(summary_markdown(found.summary) if chosen == "markdown" else summary_json(found.summary))
