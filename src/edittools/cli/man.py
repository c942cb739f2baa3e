"""`edit man`"""

from __future__ import annotations

import click

from edittools.cli import options
from edittools.errors import EditError


@options.command(
    "man",
    cost="Reads no data.",
    examples=(
        ("edit man dedup | man -l -", "read a page"),
        (
            "edit man --write man/ --readme README.md",
            "print every page, and the table of subcommands, into the sources",
        ),
        ("edit man --check man/ --readme README.md", "fail if what is there is not what would be printed"),
    ),
)
@click.argument("page", required=False)
@options.option("--write", metavar="DIR/", group="Output", setting=False, help="Write every page into a folder.")
@options.option(
    "--check", metavar="DIR/", group="Run", setting=False, help="Compare a folder with what would be written."
)
@options.option(
    "--readme",
    metavar="FILE",
    group="Output",
    setting=False,
    help="Also the table of subcommands between two marks in this file.",
)
@click.pass_context
def command(
    ctx: click.Context, page: str | None, write: str | None, check: str | None, readme: str | None, **given: object
) -> None:
    """Print the manual.

    PAGE is a subcommand, or `stream` or `shards` for the formats. Everything is printed from the same definitions as
    --help, so the manual cannot say anything else.
    """
    from edittools.cli.manual import check_pages, pages, write_pages

    if write:
        write_pages(write, readme)
    elif check:
        check_pages(check, readme)
    else:
        known = pages()
        name = "edit.1" if page is None else next((n for n in known if n.split(".")[0] == f"edit-{page}"), "")
        if name not in known:
            raise EditError(f"no page `{page}`", hint="there are: " + ", ".join(n.split(".")[0] for n in known))
        click.echo(known[name], nl=False)
