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
        ("edit man filter sharpness", "all about one filter"),
        (
            "edit man --write man/ --readme README.md",
            "print every page, and the tables of the documents, into the sources",
        ),
        ("edit man --check man/ --readme README.md", "fail if what is there is not what would be printed"),
    ),
)
@click.argument("page", required=False)
@click.argument("name", required=False)
@options.option("--write", metavar="DIR/", group="Output", setting=False, help="Write every page into a folder.")
@options.option(
    "--check", metavar="DIR/", group="Run", setting=False, help="Compare a folder with what would be written."
)
@options.option(
    "--readme",
    metavar="FILE",
    group="Output",
    setting=False,
    help="Also the tables between marks in this file, and in docs/*.md beside it.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    page: str | None,
    name: str | None,
    write: str | None,
    check: str | None,
    readme: str | None,
    **given: object,
) -> None:
    """Print the manual.

    PAGE is a subcommand, `stream` or `shards` for the formats, or `datasets` for what `edit shard` knows by name.
    Everything is printed from the same definitions as --help, so the manual cannot say anything else.

    With a NAME it is one filter, rubric, benchmark or template, as plain text: `edit man filter NAME`, `edit man judge
    RUBRIC`, `edit man eval BENCH`, `edit man synth TEMPLATE`.
    """
    from edittools.cli.entries import entry
    from edittools.cli.manual import check_pages, pages, write_pages

    if write:
        write_pages(write, readme)
    elif check:
        check_pages(check, readme)
    else:
        known = {file.split(".")[0]: text for file, text in pages().items()}
        title = "-".join(filter(None, ("edit", page, name)))
        if title in known:
            click.echo(known[title], nl=False)
        elif page is None or name is None:
            raise EditError(f"no page `{page}`", hint=f"there are: {', '.join(known)}")
        else:
            click.echo(entry(page, name), nl=False)
