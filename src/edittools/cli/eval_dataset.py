"""`edit eval dataset`"""

from __future__ import annotations

import click

from edittools.cli import figures, options


@options.command(
    "eval dataset",
    cost="Reads once; decodes only headers, and the images that the page shows.",
    examples=(
        ("edit eval dataset pairs/", "what the rows consist of, as a table"),
        ("edit eval dataset pairs/ -o dataset.html", "as a page, beside the published data sets"),
        ("edit eval dataset pairs/ -o sampled.html --sample 50", "with pairs at random, to be judged by eye"),
    ),
)
@options.input_options
@options.option(
    "--sample",
    type=click.IntRange(1, 1000),
    metavar="N",
    group="Output",
    setting=False,
    help="Show so many rows at random on the page, each as likely as any other; of the same rows always the same.",
)
@figures.figure_options
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: object) -> None:
    """Say what rows consist of, as in ImgEdit's table 1.

    Sizes, formats, tasks, distinct words, share of tiny edits, scores; and the share that a classifier's stored
    probability detects (`edit filter --image result --classifier NAME --label fake --max-prob ..`: the fake score).
    """
    from edittools.bench.evaluate import dataset_statistics
    from edittools.bench.report import render_dataset
    from edittools.bench.sampled import RandomRows
    from edittools.bench.score_report import published_tables
    from edittools.bench.terminal import dataset_listings
    from edittools.stream.run import RunOptions, open_input

    params = ctx.params
    figures.need_input(ctx, "dataset", "rows", "any rows; `edit shard FILES -o ROWS/` makes some of files")
    beside = figures.place_of_figures(ctx, "sample")
    sample = RandomRows(params["sample"]) if params["sample"] else None
    source = open_input(list(input), RunOptions(limit=params["limit"], partial=params["partial"]))
    found = dataset_statistics(source, sample)
    if params["output"] is not None:
        title, history = params["title"] or "The data set", list(source.history.nodes)
        shown = sample.rows() if sample is not None else []
        page = render_dataset(found, title=title, published=published_tables("dataset"), history=history, sample=shown)
        figures.write_report(params["output"], beside, page, found)
    figures.print_figures(found, dataset_listings(found), figures.format_of(ctx))
