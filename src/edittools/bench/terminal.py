"""The summary outside the browser: a table for a terminal, Markdown for an issue, JSON for a program."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edittools.metrics import intervals
from edittools.report import digits

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(summary: dict[str, Any]) -> Table:
    """A rich table: kinds first, then the means. Print it with rich.console.Console."""
    from rich.table import Table
    from rich.text import Text

    printed = Table(caption=digits.LEGEND, caption_justify="left")
    for column in digits.COLUMNS:
        printed.add_column(column, justify="left" if column == "kind" else "right", no_wrap=column == "kind")
    # Text and not str: rich would read [brackets] in a template's name as markup.
    for name, entry in summary["kinds"].items():
        printed.add_row(*map(Text, digits.cells(name, entry)))
    printed.add_section()
    for name, entry in digits.mean_entries(summary).items():
        printed.add_row(*map(Text, digits.cells(name, entry)), style="bold")
    return printed


def summary_latex(summary: dict[str, Any]) -> str:
    entries = summary["kinds"] | digits.mean_entries(summary)
    rows = [digits.cells(name, entry) for name, entry in entries.items()]
    notes = [digits.LEGEND, _coverage(summary)]
    return latex([ReportListing("held-out rows", digits.COLUMNS, rows, notes, summary["warnings"])])


def summary_markdown(summary: dict[str, Any]) -> str:
    """The same table in GitHub's Markdown, with its legend and the coverage."""
    lines = [
        *(line for said in summary["warnings"] for line in (f"> **WARNING: {said}**", "")),
        _markdown_row(digits.COLUMNS),
        "|---" + "|---:" * (len(digits.COLUMNS) - 1) + "|",
        *(_markdown_row(digits.cells(name, entry)) for name, entry in summary["kinds"].items()),
        *(
            _markdown_row([f"**{name}**", *digits.cells(name, entry)[1:]])
            for name, entry in digits.mean_entries(summary).items()
        ),
    ]
    return "\n".join([*lines, "", digits.LEGEND, "", _coverage(summary), ""])


def _coverage(summary: dict[str, Any]) -> str:
    coverage = ", ".join(f"{name} {count}" for name, count in summary["coverage"].items())
    if summary["unjudged"]:
        coverage += "; kinds without a judged row: " + ", ".join(summary["unjudged"])
    return f"Rows: {coverage}."


class ReportListing(NamedTuple):
    """One table, however it is printed; the first column names the rows, the others are numbers.

    The warnings stand above it: what one must know before one reads a number. The notes stand below.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


# The rows of a ScoreTable that are no task's. The intersection's is a mean over tasks, as the full set's is.
MEANS = ("average", "mean over tasks", "mean over cases", "intersection", "… over cases")
WITHOUT_FAILED = "official without failed cases"


def official_average(means: Mapping[str, Mapping[str, float]], tasks: Iterable[str]) -> Mapping[str, float]:
    """The official mean over tasks, metric -> mean; where the scripts give none, that of their means of `tasks`."""
    for name in ("average", "Overall"):
        if name in means:
            return means[name]
    known = [means[task] for task in tasks if task in means]
    if any(not isinstance(value, float) for one in known for value in one.values()):
        return {}
    return {metric: math.fsum(one[metric] for one in known) / len(known) for metric in known[0]} if known else {}


class ScoreTable:
    """The table of a rescoring: a row per task, and the means. `scoring` says whose numbers: ours, or the script's.

    Ours have the interval of the last metric and, beside it, that metric's official mean. Where the script ends with
    an exception, that stands there, and beside it the official mean without the cases that have failed.
    """

    def __init__(self, summary: dict[str, Any], metrics: list[str], scoring: str) -> None:
        self.summary, self.metrics, self.official = summary, metrics, scoring == "official"
        self.flat = "tasks" in summary["strict"]
        self.languages = [""] if self.flat else list(summary["strict"])
        self.mended = any(self.part("official_without_failed", name) for name in self.languages)
        extra = [] if self.official else ["95%", "official", *([WITHOUT_FAILED] if self.mended else [])]
        self.columns = ["task", *metrics, *extra, "judged", "fail", "miss"]

    def part(self, name: str, language: str) -> dict[str, Any]:
        """A part of what was found, of one language; empty where that has none."""
        part = self.summary.get(name, {})
        return part if self.flat else part.get(language, {})

    def official_means(self, language: str) -> tuple[dict[str, Any], str]:
        """The official means as far as there are any, and what they are: official, or those WITHOUT_FAILED."""
        means = self.part("official_means", language)
        return (means, "official") if means else (self.part("official_without_failed", language), WITHOUT_FAILED)

    def headline(self, language: str) -> tuple[float | None, list[float] | None, str]:
        """The last metric's mean over tasks with its interval, and whose it is, by `scoring`."""
        metric = self.metrics[-1]
        if self.official:
            tasks = self.part("strict", language)["tasks"]
            for part, name in (("official_means", "official"), ("official_without_failed", WITHOUT_FAILED)):
                mean = official_average(self.part(part, language), tasks).get(metric)
                if isinstance(mean, float):  # NaN is a word in what was found
                    return mean, None, name
            return None, None, "official"
        macro = self.part("macro", language)[metric]
        return macro["mean"], macro["interval"], "ours"

    def rows(self, language: str) -> list[list[str]]:
        strict, macro, micro, coverage = (
            self.part(name, language) for name in ("strict", "macro", "micro", "coverage")
        )
        if self.official:
            means, _ = self.official_means(language)
            names = [name for name in [*strict["tasks"], *means] if name in means]
            rows = [self._row(name, means[name], coverage["tasks"].get(name, {})) for name in dict.fromkeys(names)]
            mended = self.part("official_without_failed", language)
            if self.part("official_means", language) and "average" in mended:  # beside an average that is NaN
                rows.append(self._row("average without failed cases", mended["average"], {}))
            return rows
        official, mended = (self.part(name, language) for name in ("official_means", "official_without_failed"))
        others = dict.fromkeys([*official, *mended])
        names = [*strict["tasks"], *(name for name in others if name not in (*strict["tasks"], *MEANS))]
        crash = self.part("official", language).get("raises")
        if isinstance(crash, str):  # stands where the official mean would
            official = {"average": {self.metrics[-1]: crash}}
        rows = [
            self._own(name, strict["tasks"].get(name, {}), coverage["tasks"].get(name, {}), official, mended, name)
            for name in names
        ]
        rows.append(self._own("mean over tasks", macro, coverage["total"], official, mended, "average"))
        rows.append(self._own("mean over cases", micro, coverage["total"], {}, {}, ""))
        if "intersection" in strict:
            inside = strict["intersection"]
            counts = inside["coverage"]["total"]
            rows.append(self._own("intersection", inside["macro"], counts, official, mended, "intersection"))
            rows.append(self._own("… over cases", inside["micro"], counts, {}, {}, ""))
        return rows

    def _row(self, name: str, means: dict[str, Any], counts: dict[str, Any]) -> list[str]:
        return [name, *(number(means.get(metric)) for metric in self.metrics), *_counts(counts)]

    def _own(
        self,
        name: str,
        ours: dict[str, Any],
        counts: dict[str, Any],
        official: dict[str, Any],
        mended: dict[str, Any],
        key: str,
    ) -> list[str]:
        last = self.metrics[-1]
        entries = [ours.get(metric, {}) for metric in self.metrics]
        cells = [name, *(digits.with_digits(one.get("mean"), one.get("interval")) for one in entries)]
        cells.append(digits.bounds(entries[-1].get("interval"), entries[-1].get("mean") is not None))
        cells.append(number(official.get(key, {}).get(last)))
        if self.mended:
            cells.append(number(mended.get(key, {}).get(last)))
        return [*cells, *_counts(counts)]

    def coverage(self, language: str) -> str:
        """How many cases there are of each sort, in words."""
        counts = dict(self.part("coverage", language)["total"])
        missing = counts.pop("missing")
        said = [f"{count:,} {name}" for name, count in counts.items() if count is not None]
        return "Cases: " + ", ".join([*said, f"{'unknown' if missing is None else f'{missing:,}'} missing"]) + "."

    def listings(self) -> list[ReportListing]:
        """One per language, then what else was found; the warnings stand above the first language, the notes below
        the last."""
        listings = []
        for language in self.languages:
            title = " ".join(filter(None, (self.summary["benchmark"], language)))
            if self.official and (whose := self.official_means(language)[1]) != "official":
                title += f", {whose}"
            notes = [self.coverage(language), *(self.summary["notes"] if language == self.languages[-1] else [])]
            if any(intervals.TOO_FEW in row for row in self.rows(language)):
                notes.insert(1, f"{intervals.TOO_FEW}: no interval below {intervals.MIN_CASES}, or with one per task")
            warnings = self.summary.get("warnings", []) if language == self.languages[0] else []
            listings.append(ReportListing(title, self.columns, self.rows(language), notes, warnings))
        return [*listings, *self.further()]

    def further(self) -> list[ReportListing]:
        """The judges of a panel, the comparison of models, and the judge's agreement with people, where there are
        such."""
        listings = []
        if "judges" in self.summary:
            listings += [self._judges(language) for language in self.languages]
            listings.append(_between_judges(self.summary["between_judges"]))
        if "comparison" in self.summary:
            listings += _comparison(self.summary["comparison"])
        for language in self.languages:
            if section := self.part("abilities", language):
                listings.append(self._abilities(section, language))
        for name, one in self.summary.get("detected", {}).items():
            listings.append(_detected(name, one))
        for name, run in self.summary.get("judge_runs", {}).items():
            listings += _judge_run(name, run)
        if self.summary.get("agreement"):
            section = self.summary["agreement"]
            names = list(dict.fromkeys(name for entry in section.values() for name in entry))
            rows = [[dimension, *(number(entry.get(name)) for name in names)] for dimension, entry in section.items()]
            listings.append(ReportListing("The judge beside people", ["dimension", *names], rows))
        return listings

    def _judges(self, language: str) -> ReportListing:
        """Each judge of a panel by itself; official is the released script's mean over tasks."""
        last = self.metrics[-1]
        judges = {name: ScoreTable(summary, self.metrics, "strict") for name, summary in self.summary["judges"].items()}
        official = ["official", *([WITHOUT_FAILED] if any(alone.mended for alone in judges.values()) else [])]
        columns = ["judge", "model", "over tasks", "over cases", *official, "judged", "fail", "miss"]
        rows = []
        for name, alone in judges.items():
            means = (alone.part(part, language) for part in ("official_means", "official_without_failed"))
            tasks = alone.part("strict", language)["tasks"]
            theirs = [number(official_average(mean, tasks).get(last)) for mean in means][: len(official)]
            ours = [alone.part(which, language)[last] for which in ("macro", "micro")]
            figures = [digits.with_digits(one["mean"], one["interval"]) for one in ours]
            counts = _counts(alone.part("coverage", language)["total"])
            rows.append([name, alone.summary["judge"].get("judge", ""), *figures, *theirs, *counts])
        title = " ".join(filter(None, ("Each judge alone:", last, language)))
        return ReportListing(title, columns, rows)

    def _abilities(self, section: dict[str, Any], language: str) -> ReportListing:
        rows = []
        for name, entry in section["tasks"].items():
            cells = [digits.with_digits(entry[metric]["mean"], entry[metric]["interval"]) for metric in self.metrics]
            bounds = digits.bounds(entry[self.metrics[-1]]["interval"], entry["n"])
            rows.append([name, *cells, bounds, *_counts(section["coverage"][name])])
        columns = ["ability", *self.metrics, "95%", "judged", "fail", "miss"]
        return ReportListing(
            " ".join(filter(None, ("By ability", language))), columns, rows, ["Ours: means over cases."]
        )


def _between_judges(agreement: dict[str, Any]) -> ReportListing:
    any_of: dict[str, Any] = next(iter(agreement.values()), {"means": {}})
    judges, names = list(any_of["means"]), [name for name in any_of if name != "means"]
    rows = [
        [dimension, *(number(entry[name]) for name in names), *(number(entry["means"][judge]) for judge in judges)]
        for dimension, entry in agreement.items()
    ]
    columns = ["dimension", *names, *(f"mean {judge}" for judge in judges)]
    return ReportListing("The judges beside each other", columns, rows)


def _counts(counts: dict[str, Any]) -> list[str]:
    """Judged, failed and missing; a question mark for what nobody knows."""
    judged = str(counts.get("judged", ""))
    if counts.get("expected") is not None:
        judged += f"/{counts['expected']}"
    missing = counts.get("missing", "")
    return [judged, str(counts.get("failed", "")), "?" if missing is None else str(missing)]


def _comparison(comparison: dict[str, Any]) -> list[ReportListing]:
    cases = comparison["cases"]

    def against(entry: dict[str, Any]) -> list[str]:
        bounds = entry["interval"]
        return [
            digits.with_digits(entry["difference"], bounds, "+"),
            digits.bounds(bounds, cases, "+"),
            f"{entry['won']:.0%}",
            f"{entry['lost']:.0%}",
        ]

    differences = ["difference", "95%", "won", "lost"]
    rows = [
        [name, str(entry["judged"]), number(entry["macro"]), number(entry["micro"])]
        + (against(entry) if "difference" in entry else [""] * len(differences))
        for name, entry in comparison["models"].items()
    ]
    title = f"Models compared: {comparison['metric']}, over {cases:,} common cases"
    note = "Differences are to the first, of the same cases."
    listings = [ReportListing(title, ["model", "judged", "over tasks", "over cases", *differences], rows, [note])]
    if len(comparison["pairs"]) > 1:
        rows = [[pair["second"], pair["first"], *against(pair)] for pair in comparison["pairs"]]
        listings.append(ReportListing("Every two models", ["model", "against", *differences], rows))
    return listings


def _detected(name: str, detected: dict[str, Any]) -> ReportListing:
    entries = {**detected["tasks"], "mean over tasks": detected["macro"], "mean over cases": detected["micro"]}
    rows = []
    for task, one in entries.items():
        cells = [(one[part]["mean"], one[part]["interval"]) for part in ("share", "probability")]
        cases = one.get("n", detected["micro"]["share"]["n"])
        share, likely = (digits.with_digits(mean, bounds) for mean, bounds in cells)
        rows.append([task, str(cases), share, digits.bounds(cells[0][1], cases), likely])
    note = "The share of results that the classifier takes for its class; where that is `fake`, the fake score."
    return ReportListing(f"Detected: {name}", ["task", "cases", "share", "95%", "probability"], rows, [note])


def _judge_run(name: str, run: dict[str, Any]) -> list[ReportListing]:
    first, other = (judge or "unknown" for judge in run["judges"])
    bounds = run["interval"]
    cells = [
        digits.with_digits(run["difference"], bounds, "+"),
        digits.bounds(bounds, run["cases"], "+"),
        f"{run['same']:.0%}",
        f"{run['within_one']:.0%}",
        number(run["spearman"]),
        number(run["alpha"]),
    ]
    columns = ["judge", "difference", "95%", "same", "within 1", "Spearman", "alpha"]
    alone = f"scored by one of them only: {len(run['only_first'])} and {len(run['only_other'])} cases"
    note = f"To {first}, over {run['cases']:,} cases that both scored; {alone}."
    listings = [ReportListing(f"Another judge: {name}", columns, [[other, *cells]], [note])]
    if run["moved"]:
        rows = [[one["id"], one["task"], f"{one['first']:g}", f"{one['other']:g}", f"{one['change']:+g}"]
                for one in run["moved"][:10]]  # fmt: skip
        title = f"Cases that moved: {run['moves']:,}, the farthest first"
        listings.append(ReportListing(title, ["case", "task", "first", name, "change"], rows))
    return listings


def pairwise_listings(summary: dict[str, Any]) -> list[ReportListing]:
    """pairwise.summarize's result: the models, best first, and every pair that was compared."""

    def rate(entry: dict[str, Any]) -> list[str]:
        counts = [f"{entry[name]:g}" for name in ("wins", "ties", "losses")]
        bounds = entry["interval"]
        return [
            *counts,
            digits.with_digits(entry["win_rate"], bounds),
            digits.bounds(bounds, entry["comparisons"]),
        ]

    columns = ["wins", "ties", "losses", "win rate", "95%"]
    rows = []
    for name, entry in summary["models"].items():
        points, bounds = entry["elo"], entry["elo_interval"]
        elo = "–" if points is None else f"{points:.0f}"
        few = intervals.TOO_FEW if entry["cases"] < intervals.MIN_CASES else "unbounded"
        between = few if bounds is None else f"{bounds[0]:.0f}–{bounds[1]:.0f}"
        rows.append([name, *rate(entry), elo, "" if points is None else between])
    title = (
        f"Pairwise: {summary['comparisons']:,} comparisons of {summary['cases']:,} cases, {summary['failed']:,} failed"
    )
    listings = [ReportListing(title, ["model", *columns, "Elo", "95%"], rows, summary["notes"], summary["warnings"])]
    rows = [[pair["first"], pair["second"], *rate(pair)] for pair in summary["pairs"]]
    listings.append(ReportListing("Every two models", ["model", "against", *columns], rows))
    return listings + ([_between_judges(summary["between_judges"])] if "between_judges" in summary else [])


def text_listings(summary: dict[str, Any]) -> list[ReportListing]:
    """text_subset.text_subset's result."""
    columns = ["expected", "generated", "judged", "failed", "missing"]
    rows = []
    for name, entry in summary["metrics"].items():
        means = digits.with_digits(entry["mean"], entry["interval"]), digits.bounds(entry["interval"], entry["n"])
        counts = summary["coverage"][name]
        rows.append([name, *means, *(number(counts[column]) for column in columns)])
    columns = ["metric", "mean", "95%", *columns]
    listings = [
        ReportListing(
            f"{summary['benchmark']}, {summary['suite']} subset", columns, rows, summary["notes"], summary["warnings"]
        )
    ]
    return listings + ([_between_judges(summary["between_judges"])] if "between_judges" in summary else [])


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # a terminal would act on what the data say


def rich_tables(listings: list[ReportListing]) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    def plain(said: str, style: str = "") -> Text:
        return Text(_CONTROL.sub("\ufffd", said), style)

    tables = []
    for title, columns, rows, notes, warnings in listings:
        # No edges: 80 columns hold GEdit-Bench's three metrics.
        above = Text("\n").join([*(plain(f"WARNING: {said}", "bold red") for said in warnings), plain(title)])
        printed = Table(title=above, box=None, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
        printed.caption, printed.caption_justify = plain("\n".join(notes)), "left"
        for column in columns:
            # Where a table is too wide, titles of several words take several lines, and no number is cut.
            first = column == columns[0]
            printed.add_column(plain(column), justify="left" if first else "right", no_wrap=first)
        for row in rows:
            printed.add_row(*map(plain, row))
        tables.append(printed)
    return tables


def markdown(listings: list[ReportListing]) -> str:
    lines = []
    for title, columns, rows, notes, warnings in listings:
        lines += [line for said in warnings for line in (f"> **WARNING: {said}**", "")]
        lines += [f"**{title}**", "", _markdown_row(columns), "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += [*map(_markdown_row, rows), "", *(f"- {note}" for note in notes), *([""] if notes else [])]
    return "\n".join(lines)


def latex(listings: list[ReportListing]) -> str:
    """Tabular environments, to be put into a paper's table; titles and notes are comments."""
    lines = []
    for title, columns, rows, notes, warnings in listings:
        lines += [f"% {_one_line(title)}", r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\hline"]
        wide = rf"\multicolumn{{{len(columns)}}}{{p{{\linewidth}}}}"
        lines += [rf"{wide}{{\textbf{{Warning: {_latex(said)}}}}} \\" for said in warnings]
        lines += [" & ".join(map(_latex, columns)) + r" \\", r"\hline"]
        lines += [" & ".join(map(_latex, row)) + r" \\" for row in rows]
        lines += [r"\hline", r"\end{tabular}", *(f"% {_one_line(note)}" for note in notes), ""]
    return "\n".join(lines)


def number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


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
