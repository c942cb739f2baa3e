"""`edit eval report heldout`"""

from __future__ import annotations

import click

from edittools.cli import figures, options
from edittools.errors import UsageError


@options.command(
    "eval heldout",
    cost="Reads once; keeps the scores and references of every row, and decodes only the images it shows.",
    examples=(
        ("edit eval report heldout judged/ --run run/ -o report.html", "table on the terminal, HTML and JSON files"),
        ("edit eval report heldout judged/ -f json | jq .mean", "the figures for another program"),
    ),
)
@options.input_options
@options.option(
    "--meta",
    metavar="PATH",
    group="Input",
    help="The rows that were to be edited, so that those which `edit sample -o` rejected are counted.",
)
@options.option("--run", metavar="DIR/", group="Input", help="Run folder, for the loss curve.")
@options.option(
    "--data",
    metavar="PATH",
    group="Input",
    help="Data set whose statistics the report shows. Default: the rows that are evaluated.",
)
@figures.figure_options
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: object) -> None:
    """Report how well a model edits held-out rows with ground truth.

    INPUT are rows edited by `edit sample` and scored by `edit score`. Per kind of edit and in the mean: PSNR with a 95%
    interval, copying the source, inside the mask, with shuffled instructions where `result_shuffled` was
    sampled, coverage; a gallery of the worst and best cases; what the data consist of.
    """
    from edittools.bench.evaluate import Heldout
    from edittools.bench.terminal import summary_json, summary_latex, summary_markdown, summary_table
    from edittools.stream.run import RunOptions, open_input

    params = ctx.params
    made_by = "edit sample ROWS --model RUN | edit score -o JUDGED/"
    figures.need_input(ctx, "report heldout", "rows", made_by)
    output, data, meta = params["output"], params["data"], params["meta"]
    beside = figures.place_of_figures(ctx, "run")
    source = open_input(list(input), RunOptions(limit=params["limit"], partial=params["partial"]))
    wanted = open_input([meta], RunOptions()) if meta else None
    if wanted is not None and params["limit"] is not None:
        raise UsageError("--limit has no meaning with --meta: the rows beyond it would be missing")
    found = Heldout(source, open_input([data], RunOptions()) if data else None, wanted)
    if output is not None:
        page = found.html(params["title"] or "Held-out evaluation", params["run"])
        figures.write_report(output, beside, page, found.summary)
    for said in found.summary["warnings"]:
        click.echo(f"eval: warning: {said}", err=True)
    chosen = figures.format_of(ctx)
    if chosen == "table":
        from rich.console import Console

        Console().print(summary_table(found.summary))
        return
    printed = {"markdown": summary_markdown, "latex": summary_latex, "json": summary_json}[chosen]
    click.echo(printed(found.summary), nl=False)
