"""The summary outside the browser: a table for a terminal, Markdown for an issue, JSON for a program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edittools.bench import table

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(summary: dict[str, Any]) -> Table:
    """A rich table: kinds first, then the means. Print it with rich.console.Console."""
    from rich.table import Table
    from rich.text import Text

    printed = Table(caption=table.LEGEND, caption_justify="left")
    for column in table.COLUMNS:
        printed.add_column(column, justify="left" if column == "kind" else "right", no_wrap=column == "kind")
    # Text and not str: rich would read [brackets] in a template's name as markup.
    for name, entry in summary["kinds"].items():
        printed.add_row(*map(Text, table.cells(name, entry)))
    printed.add_section()
    for name, entry in table.mean_entries(summary).items():
        printed.add_row(*map(Text, table.cells(name, entry)), style="bold")
    return printed


def summary_markdown(summary: dict[str, Any]) -> str:
    """The same table in GitHub's Markdown, with its legend and the coverage."""
    lines = [
        _markdown_row(table.COLUMNS),
        "|---" + "|---:" * (len(table.COLUMNS) - 1) + "|",
        *(_markdown_row(table.cells(name, entry)) for name, entry in summary["kinds"].items()),
        *(
            _markdown_row([f"**{name}**", *table.cells(name, entry)[1:]])
            for name, entry in table.mean_entries(summary).items()
        ),
    ]
    coverage = ", ".join(f"{name} {count}" for name, count in summary["coverage"].items())
    if summary["unjudged"]:
        coverage += "; kinds without a judged row: " + ", ".join(summary["unjudged"])
    return "\n".join([*lines, "", table.LEGEND, "", f"Rows: {coverage}.", ""])


def summary_json(summary: dict[str, Any]) -> str:
    """report.json. Raises ValueError on NaN or infinity, which JSON does not have."""
    return json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _markdown_row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
