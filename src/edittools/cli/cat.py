"""`edit cat`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "cat",
    cost="Reads once and streams. --check reads every byte and keeps about 100 bytes per row.",
    examples=(
        ("edit cat clean/", "look at the first rows"),
        ("edit cat clean/ -o clean.parquet", "one Parquet file whose images `datasets` shows"),
        ("edit cat --check clean/", "verify sizes, digests, references and ids of a whole set"),
    ),
)
@options.input_options
@options.option("--check", is_flag=True, group="Run", setting=False, help="Verify instead of writing anything.")
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], check: bool, **given: object) -> None:
    """Convert, join, look at and check data sets.

    Reads everything any command reads, and writes every format. Several inputs are joined, their columns
    aligned. On a terminal it shows the first rows.
    """
    if check:
        if given["output"] is not None or given["format"] is not None:
            raise UsageError("--check writes nothing: -o and -f have no meaning with it")
        from edittools.stream.check import check_inputs

        check_inputs(list(input), options.run_settings(ctx))
        return
    options.run_stages(ctx, [])
