"""`edit eval dataset`"""

from __future__ import annotations

import click

from edittools.cli import figures, options
from edittools.errors import UsageError


@options.command(
    "eval dataset",
    cost="Reads once; decodes only headers, and the images that the page shows.",
    examples=(
        ("edit eval dataset pairs/", "what the rows consist of, as a table"),
        ("edit eval dataset pairs/ -o dataset.html", "as a page, beside the published data sets"),
        ("edit eval dataset pairs/ -o sampled.html --sample 50", "with pairs at random, to be judged by eye"),
        (
            "edit eval dataset pairs/ --earlier raw/ --earlier clean/ -o funnel.html",
            "and what every command on the way dropped, and why",
        ),
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
@options.option(
    "--earlier",
    multiple=True,
    metavar="FOLDER",
    group="Input",
    setting=False,
    help="A set that INPUT was made of, by its history: what its command read, dropped and wrote. Any number of times.",
)
@options.option(
    "--score",
    metavar="NAME",
    group="Selection",
    help="Which score stands for quality, by task and in table 1. Default: a judge's overall one, of the most rows.",
)
@figures.figure_options
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], **given: object) -> None:
    """Say what rows consist of, as in ImgEdit's table 1, and what became of the others.

    Sizes, formats, distinct words, share of tiny edits, scores, all by task as well; and the share that a classifier's
    stored probability detects (`edit filter --image result --classifier NAME --label fake --max-prob ..`: the fake
    score). Edits are grouped as FireRed-Image-Edit groups its own, images have the classes of `edit caption --kinds
    classify`.

    A set knows what the run that wrote it read and dropped, be it one command or a pipe of several; --earlier names the
    sets before it, so that the funnel begins with the crawl.
    """
    from edittools.bench.dataset_report import render_dataset
    from edittools.bench.dataset_tables import dataset_listings
    from edittools.bench.evaluate import dataset_statistics
    from edittools.bench.sampled import RandomRows
    from edittools.stream.run import RunOptions, open_input

    params = ctx.params
    figures.need_input(ctx, "dataset", "rows", "any rows; `edit shard FILES -o ROWS/` makes some of files")
    beside = figures.place_of_figures(ctx, "sample")
    sample = RandomRows(params["sample"]) if params["sample"] else None
    source = open_input(list(input), RunOptions(limit=params["limit"], partial=params["partial"]))
    earlier = [open_input([path], RunOptions(partial=params["partial"])) for path in params["earlier"]]
    found = dataset_statistics(source, sample, earlier)
    score: str | None = params["score"]
    if score is not None and score not in found["scores"]:
        raise UsageError(f"--score {score}: no row has it", hint=f"scores: {', '.join(found['scores']) or 'none'}")
    if params["output"] is not None:
        title, history = params["title"] or "The data set", list(source.history.nodes)
        shown = sample.rows() if sample is not None else []
        page = render_dataset(found, title=title, history=history, sample=shown, score=score)
        figures.write_report(params["output"], beside, page, found)
    figures.print_figures(found, dataset_listings(found, score), figures.format_of(ctx))
