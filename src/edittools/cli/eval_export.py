"""`edit eval export`"""

from __future__ import annotations

from pathlib import Path

import click

from edittools.cli import options
from edittools.cli.benchmarks import examples_of


@options.command(
    "eval export",
    cost="Reads once; an image that is no PNG is decoded and encoded.",
    examples=examples_of("export"),
)
@options.input_options
@options.option(
    "-o",
    "--output",
    metavar="DIR/",
    required=True,
    group="Output",
    setting=False,
    help="The folder of the official layout, for the released judge script.",
)
@options.option("--overwrite", is_flag=True, group="Output", setting=False, help="Replace images that exist.")
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], output: str, overwrite: bool, **given: object) -> None:
    """Write results where a benchmark's released judge script looks for them.

    INPUT are the rows of `edit eval cases`, edited by `edit sample`.
    """
    from edittools.bench.case_list import export_results
    from edittools.stream.run import RunOptions, open_input

    read = RunOptions(limit=ctx.params["limit"], partial=ctx.params["partial"])
    written, missing = export_results(open_input(list(input), read), Path(output), overwrite)
    click.echo(f"eval: {written} results written; {len(missing)} rows without one", err=True)
