"""The summary outside the browser: a table for a terminal, Markdown for an issue, JSON for a program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Further(NamedTuple):
    """A table beside the scores."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str | None = None


class ScoreTable:
    """The table of a rescoring: a row per task, and the means. `scoring` says whose numbers: ours, or the script's.

    Ours have the interval of the last metric and, beside it, that metric's official mean.
    """

    def __init__(self, found: dict[str, Any], metrics: list[str], scoring: str) -> None:
        self.found, self.metrics, self.official = found, metrics, scoring == "official"
        extra = [] if self.official else ["95%", "official"]
        self.columns = ["task", *metrics, *extra, "judged", "fail", "miss"]
        flat = "tasks" in found["strict"]
        self.languages = [""] if flat else list(found["strict"])

    def rows(self, language: str) -> list[list[str]]:
        strict, macro, micro, coverage, official = (
            self.found[name] if language == "" else self.found[name].get(language, {})
            for name in ("strict", "macro", "micro", "coverage", "official_means")
        )
        average = {} if self.official else {"average": official.get("average", {})}
        names = [*strict["tasks"], *(name for name in official if name not in {*strict["tasks"], *average})]
        rows = [
            self._row(name, strict["tasks"].get(name, {}), official.get(name, {}), coverage["tasks"].get(name, {}))
            for name in names
            if not self.official or name in official
        ]
        if not self.official:
            rows.append(self._row("mean over tasks", macro, average["average"], coverage["total"]))
            rows.append(self._row("mean over cases", micro, {}, coverage["total"]))
        return rows

    def _row(self, name: str, ours: dict[str, Any], official: dict[str, Any], counts: dict[str, Any]) -> list[str]:
        last = self.metrics[-1]
        shown = official if self.official else {metric: ours.get(metric, {}).get("mean") for metric in self.metrics}
        cells = [name, *(_number(shown.get(metric)) for metric in self.metrics)]
        if not self.official:
            bounds = ours.get(last, {}).get("interval")
            cells += ["" if bounds is None else f"{bounds[0]:.2f}–{bounds[1]:.2f}", _number(official.get(last))]
        judged = str(counts.get("judged", ""))
        if counts.get("expected") is not None:
            judged += f"/{counts['expected']}"
        return [*cells, judged, str(counts.get("failed", "")), str(counts.get("missing", ""))]

    def rich(self) -> list[Table]:
        """One rich table per language; what is known to be wrong with the official numbers stands below."""
        from rich.table import Table
        from rich.text import Text

        made = []
        tight: dict[str, Any] = {"show_edge": False, "pad_edge": False}  # 80 columns hold GEdit-Bench's three metrics
        for language in self.languages:
            title = " ".join(filter(None, (self.found["benchmark"], language)))
            printed = Table(title=title, caption_justify="left", box=None, padding=(0, 1, 0, 0), **tight)
            printed.caption = "\n".join(self.found["notes"])
            for column in self.columns:
                printed.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
            for row in self.rows(language):
                printed.add_row(*map(Text, row))
            made.append(printed)
        for name, columns, rows, note in self.further():
            printed = Table(title=name, caption=note, caption_justify="left", box=None, padding=(0, 1, 0, 0), **tight)
            for column in columns:
                printed.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
            for row in rows:
                printed.add_row(*map(Text, row))
            made.append(printed)
        return made

    def further(self) -> list[Further]:
        """The comparison of models, and the judge's agreement with people, where there are such."""
        made = []
        if "comparison" in self.found:
            found = self.found["comparison"]
            columns = ["model", "judged", "over tasks", "over cases", "difference", "95%", "won", "lost"]
            rows = []
            for name, entry in found["models"].items():
                cells = [name, str(entry["judged"]), _number(entry["macro"]), _number(entry["micro"])]
                if "difference" in entry:
                    bounds = entry["interval"]
                    cells.append(f"{entry['difference']:+.3f}")
                    cells.append("" if bounds is None else f"{bounds[0]:+.3f} to {bounds[1]:+.3f}")
                    cells += [f"{entry['won']:.0%}", f"{entry['lost']:.0%}"]
                rows.append(cells + [""] * (len(columns) - len(cells)))
            title = f"Models compared: {found['metric']}, over {found['cases']:,} common cases"
            note = "Differences are to the first, with a paired bootstrap over cases."
            made.append(Further(title, columns, rows, note))
        if self.found.get("agreement"):
            found = self.found["agreement"]
            names = list(dict.fromkeys(name for entry in found.values() for name in entry))
            rows = [[dimension, *(_number(entry.get(name)) for name in names)] for dimension, entry in found.items()]
            made.append(Further("The judge beside people", ["dimension", *names], rows))
        return made

    def markdown(self) -> str:
        lines = []
        for language in self.languages:
            lines += [f"**{language}**", ""] if language else []
            lines += [_markdown_row(self.columns), "|---" + "|---:" * (len(self.columns) - 1) + "|"]
            lines += [_markdown_row(row) for row in self.rows(language)] + [""]
        for name, columns, rows, note in self.further():
            lines += [f"**{name}**", "", _markdown_row(columns), "|---" + "|---:" * (len(columns) - 1) + "|"]
            lines += [*map(_markdown_row, rows), "", *([note, ""] if note else [])]
        return "\n".join([*lines, *(f"- {note}" for note in self.found["notes"])])

    def latex(self) -> str:
        """Tabular environments, to be put into a paper's table."""
        lines = []
        for language in self.languages:
            lines += [r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}", r"\hline"]
            lines += [" & ".join(map(_latex, self.columns)) + r" \\", r"\hline"]
            lines += [" & ".join(map(_latex, row)) + r" \\" for row in self.rows(language)]
            lines += [r"\hline", r"\end{tabular}"]
        return "\n".join(lines)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in text)


def summary_json(summary: dict[str, Any]) -> str:
    """report.json. Raises ValueError on NaN or infinity, which JSON does not have."""
    text = json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair stays an escape


def _markdown_row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
