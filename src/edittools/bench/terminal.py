"""The summary outside the browser: a table for a terminal, Markdown for an issue, JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def summary_latex(summary: dict[str, Any]) -> str:
    entries = summary["kinds"] | table.mean_entries(summary)
    rows = [table.cells(name, entry) for name, entry in entries.items()]
    return latex([Listing("held-out rows", table.COLUMNS, rows, [table.LEGEND, _coverage(summary)])])


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
    return "\n".join([*lines, "", table.LEGEND, "", _coverage(summary), ""])


def _coverage(summary: dict[str, Any]) -> str:
    coverage = ", ".join(f"{name} {count}" for name, count in summary["coverage"].items())
    if summary["unjudged"]:
        coverage += "; kinds without a judged row: " + ", ".join(summary["unjudged"])
    return f"Rows: {coverage}."


class Listing(NamedTuple):
    """One table, however it is printed; the first column names the rows, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: Sequence[str] = ()


# The rows of a ScoreTable that are no task's. The intersection's is a mean over tasks, as the full set's is.
MEANS = ("average", "mean over tasks", "mean over cases", "intersection", "… over cases")


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
        means = () if self.official else MEANS
        names = [*strict["tasks"], *(name for name in official if name not in (*strict["tasks"], *means))]
        rows = [
            self._row(name, strict["tasks"].get(name, {}), official.get(name, {}), coverage["tasks"].get(name, {}))
            for name in names
            if not self.official or name in official
        ]
        if not self.official:
            rows.append(self._row("mean over tasks", macro, official.get("average", {}), coverage["total"]))
            rows.append(self._row("mean over cases", micro, {}, coverage["total"]))
        if not self.official and "intersection" in strict:
            inside = strict["intersection"]
            counts = inside["coverage"]["total"]
            rows.append(self._row("intersection", inside["macro"], official.get("intersection", {}), counts))
            rows.append(self._row("… over cases", inside["micro"], {}, counts))
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

    def coverage(self, language: str) -> str:
        """How many cases there are of each sort, in words."""
        counts = (self.found["coverage"] if language == "" else self.found["coverage"][language])["total"]
        return "Cases: " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count is not None) + "."

    def listings(self) -> list[Listing]:
        """One per language, then what else was found; the notes stand below the last language."""
        made = []
        for language in self.languages:
            title = " ".join(filter(None, (self.found["benchmark"], language)))
            notes = [self.coverage(language), *(self.found["notes"] if language == self.languages[-1] else [])]
            made.append(Listing(title, self.columns, self.rows(language), notes))
        return [*made, *self.further()]

    def further(self) -> list[Listing]:
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
            made.append(Listing(title, columns, rows, [note]))
        if self.found.get("agreement"):
            found = self.found["agreement"]
            names = list(dict.fromkeys(name for entry in found.values() for name in entry))
            rows = [[dimension, *(_number(entry.get(name)) for name in names)] for dimension, entry in found.items()]
            made.append(Listing("The judge beside people", ["dimension", *names], rows))
        return made


def text_listings(found: dict[str, Any]) -> list[Listing]:
    """text_subset.text_subset's result."""
    columns = ["expected", "generated", "judged", "failed", "missing"]
    rows = []
    for name, entry in found["metrics"].items():
        bounds = "" if entry["interval"] is None else "{:.2f}–{:.2f}".format(*entry["interval"])
        counts = found["coverage"][name]
        rows.append([name, _number(entry["mean"]), bounds, *(_number(counts[column]) for column in columns)])
    return [Listing("rededit, text subset", ["metric", "mean", "95%", *columns], rows, found["notes"])]


def dataset_listings(found: dict[str, Any]) -> list[Listing]:
    """dataset.DatasetStatistics' result; what no row had is left out."""
    facts = {name.replace("_", " "): found[name] for name in ("rows", "images", "multi_turn", "words", "characters")}
    facts["share of tiny edits"] = found["tiny_region_share"]
    facts |= {f"share detected: {name}": share for name, share in found["detected"].items()}
    made = [Listing("Data set", ["", "value"], [[name, _number(value)] for name, value in facts.items()])]
    for title, name in (("task", "tasks"), ("format", "formats")):
        counts = found[name]
        total = sum(counts.values())
        rows = [[key, str(count), f"{count / total:.1%}"] for key, count in counts.items()]
        made.append(Listing(name.capitalize(), [title, "rows" if title == "task" else "images", "share"], rows))
    sizes = dict(found["size"] or {})
    histogram = sizes.pop("histogram", [])
    extremes = ["min", "median", "max"]
    rows = [[name.replace("_", " "), *(_number(size[key]) for key in extremes)] for name, size in sizes.items()]
    made.append(Listing("Sizes", ["", *extremes], rows))
    rows = [[f"{bin['from']}–{bin['to'] or ''}", str(bin["count"])] for bin in histogram if bin["count"]]
    made.append(Listing("Megapixels", ["from–to", "images"], rows))
    columns = ["n", "mean", "min", "max"]
    rows = [[name, *(_number(entry[key]) for key in columns)] for name, entry in found["scores"].items()]
    made.append(Listing("Scores", ["score", *columns], rows))
    return [listing for listing in made if listing.rows]


def rich_tables(listings: list[Listing]) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    made = []
    for title, columns, rows, notes in listings:
        # No edges: 80 columns hold GEdit-Bench's three metrics.
        printed = Table(title=title, box=None, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
        printed.caption, printed.caption_justify = Text("\n".join(notes)), "left"
        for column in columns:
            printed.add_column(Text(column), justify="left" if column == columns[0] else "right", no_wrap=True)
        for row in rows:
            printed.add_row(*map(Text, row))
        made.append(printed)
    return made


def markdown(listings: list[Listing]) -> str:
    lines = []
    for title, columns, rows, notes in listings:
        lines += [f"**{title}**", "", _markdown_row(columns), "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += [*map(_markdown_row, rows), "", *(f"- {note}" for note in notes), *([""] if notes else [])]
    return "\n".join(lines)


def latex(listings: list[Listing]) -> str:
    """Tabular environments, to be put into a paper's table; titles and notes are comments."""
    lines = []
    for title, columns, rows, notes in listings:
        lines += [f"% {_one_line(title)}", r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\hline"]
        lines += [" & ".join(map(_latex, columns)) + r" \\", r"\hline"]
        lines += [" & ".join(map(_latex, row)) + r" \\" for row in rows]
        lines += [r"\hline", r"\end{tabular}", *(f"% {_one_line(note)}" for note in notes), ""]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {"–": "--", "…": r"\ldots{}", "−": "$-$", "▲": r"$\uparrow$", "▼": r"$\downarrow$", "≈": r"$\approx$"}
    return "".join(signs.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def summary_json(summary: dict[str, Any]) -> str:
    """report.json. Raises ValueError on NaN or infinity, which JSON does not have."""
    text = json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair stays an escape


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
