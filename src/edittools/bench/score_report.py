"""The report on a public benchmark: one HTML file with tables, bars and a gallery of what the judge saw and said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edittools.bench import plots, published
from edittools.bench.markup import text
from edittools.bench.public import Benchmark
from edittools.bench.report import fill, history_list
from edittools.bench.terminal import MEANS, Listing, ScoreTable


@dataclass(frozen=True)
class JudgedCase:
    """What the gallery shows of a case. `words` are (dimension, score, what the judge wrote or what went wrong)."""

    id: str
    task: str
    instruction: str
    score: float | None
    state: str  # ok, failed or missing
    words: list[tuple[str, float | None, str]]
    source: str | None  # data: URIs
    result: str | None


def render_scores(
    benchmark: Benchmark,
    found: dict[str, Any],
    cases: list[JudgedCase],
    *,
    name: str,
    title: str,
    scoring: str,
    protocol: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> str:
    """The report as HTML text.

    `found` is rescoring.summary's, `name` the model's, and `protocol` what every score was made with.
    """
    metrics = list(benchmark.metrics)
    tables = ScoreTable(found, metrics, scoring)
    return fill(
        "scores.html",
        title=title,
        summary=_summary(benchmark, found, tables, metrics[-1]),
        figures=_figures(found, tables, metrics[-1]),
        tables="".join(_table(tables, language) for language in tables.languages) + _notes(found["notes"]),
        further="".join(map(_further, tables.further())),
        published=published_tables(benchmark.name, found, name),
        plots="".join(_bars(benchmark, found, tables, language, metrics[-1]) for language in tables.languages),
        gallery=_gallery(cases),
        protocol=_protocol(protocol),
        history=history_list(history),
    )


def render_text_subset(
    found: dict[str, Any],
    listing: Listing,
    cases: list[JudgedCase],
    scales: dict[str, tuple[int, int]],
    *,
    title: str,
    protocol: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> str:
    """The report on REDEdit-Bench's text subset as HTML text.

    `found` is TextSubset.summary's, `listing` the same as a table, and `scales` are the bounds of each metric.
    """
    metrics = found["metrics"]
    bars: dict[tuple[int, int], list[tuple[str, float, list[float] | None]]] = {}
    for name, entry in metrics.items():
        if entry["mean"] is not None:
            bars.setdefault(scales[name], []).append((name, entry["mean"], entry["interval"]))
    panels = [_panel("{} to {}".format(*scale), plots.score_bars(made, *scale)) for scale, made in bars.items()]
    return fill(
        "scores.html",
        title=title,
        summary=f"{len(cases):,} cases of REDEdit-Bench's text task, by {text(', '.join(metrics))}.",
        figures="".join(_figure(_shown(entry["mean"]), name) for name, entry in metrics.items()),
        tables=_further(listing),
        further="",
        published="",
        plots="".join(panels),
        gallery=_gallery(cases),
        protocol=_protocol(protocol),
        history=history_list(history),
    )


def _part(found: dict[str, Any], name: str, language: str) -> dict[str, Any]:
    return found[name] if language == "" else found[name][language]


def _summary(benchmark: Benchmark, found: dict[str, Any], tables: ScoreTable, metric: str) -> str:
    sentences = []
    for language in tables.languages:
        macro, counts = _part(found, "macro", language)[metric], _part(found, "coverage", language)["total"]
        where = f" ({text(language)})" if language else ""
        if macro["mean"] is None:
            sentences.append(f"{text(benchmark.name)}{where}: no case was judged.")
            continue
        doubt = "" if macro["interval"] is None else " (95% interval {:.2f} to {:.2f})".format(*macro["interval"])
        asked = "" if counts["expected"] is None else f" of {counts['expected']:,}"
        sentences.append(
            f"{text(benchmark.name)}{where}: {metric} {macro['mean']:.3f}{doubt}, mean over {macro['tasks']} tasks; "
            f"{counts['judged']:,}{asked} cases judged, {counts['failed']:,} failed, {counts['missing']:,} missing."
        )
    return " ".join(sentences)


def _figures(found: dict[str, Any], tables: ScoreTable, metric: str) -> str:
    cells = []
    for language in tables.languages:
        for name, what in (("macro", "mean over tasks"), ("micro", "mean over cases")):
            mean = _part(found, name, language)[metric]["mean"]
            cells.append(_figure(_shown(mean), " ".join(filter(None, (metric, language))) + f", {what}"))
        cells.append(_figure(str(_part(found, "coverage", language)["total"]["failed"]), "cases that failed"))
    return "".join(cells)


def _figure(value: str, name: str) -> str:
    return f'<div class="figure"><b>{text(value)}</b><span>{text(name)}</span></div>'


def _shown(mean: float | None) -> str:
    return "–" if mean is None else f"{mean:.3f}"


def _panel(heading: str, plot: str) -> str:
    return f'<div class="panel"><h3>{text(heading)}</h3>{plot}</div>'


def _table(tables: ScoreTable, language: str) -> str:
    head = "".join(f'<th scope="col"><button type="button">{text(name)}</button></th>' for name in tables.columns)
    rows = tables.rows(language)
    means = [row for row in rows if row[0] in MEANS]
    body = "".join(map(_row, [row for row in rows if row not in means]))
    heading = f"<h2>Scores{f' ({text(language)})' if language else ''}</h2>"
    foot = f"<tfoot>{''.join(map(_row, means))}</tfoot>" if means else ""
    return (
        f'{heading}<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody>{foot}</table></div>{_notes([tables.coverage(language)])}"
    )


def _row(cells: list[str]) -> str:
    def key(cell: str) -> str:
        first = cell.split("–")[0].split("/")[0]
        return first if first.replace(".", "", 1).isdigit() else ""

    named = f'<td data-value="{text(cells[0])}">{text(cells[0])}</td>'
    return f"<tr>{named}{''.join(f'<td data-value={key(c)!r}>{text(c)}</td>' for c in cells[1:])}</tr>"


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


def _bars(benchmark: Benchmark, found: dict[str, Any], tables: ScoreTable, language: str, metric: str) -> str:
    tasks = _part(found, "strict", language)["tasks"]
    bars = [(name, e[metric]["mean"], e[metric]["interval"]) for name, e in tasks.items() if e["n"]]
    if not bars:
        return ""
    low, high = benchmark.metrics[metric]
    heading = " ".join(filter(None, (metric, language)))
    return _panel(heading, plots.score_bars(bars, low, high))


def _further(made: Listing) -> str:
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in made.columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in made.rows)
    return (
        f'<h2>{text(made.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        f"</table></div>{_notes(made.notes)}"
    )


def published_tables(benchmark: str, found: dict[str, Any], name: str) -> str:
    """The papers' own tables of a benchmark, the model's row first; judge and protocol may differ from the paper's."""
    parts = []
    for table in map(published.load, published.names()):
        if table.benchmark != benchmark:
            continue
        rows = [[row.model, *map(str, row.scores.values())] for row in table.rows]
        mine = [_own_score(found, column, table) for column in table.columns]
        # A mean over other tasks than the table's (ImgEdit's second suite) is no score for it.
        if any(value is not None for value, column in zip(mine, table.columns) if column != table.overall):
            rows.insert(0, [f"{name} (here)", *("–" if value is None else f"{value:.3f}" for value in mine)])
        titles = ["model", *table.columns]
        head = "".join(f'<th scope="col"><button type="button">{text(title)}</button></th>' for title in titles)
        body = "".join(map(_row, rows))
        notes = [*table.notes, *(f"{model}: {why}" for model, why in table.exceptions.items())]
        judged = f", judged by {table.judge}" if table.judge else ""
        parts.append(
            f"<details><summary>{text(table.title)}: {text(table.paper)}, {text(table.table)}</summary>"
            f'<p class="note">{text(table.metric)}{text(judged)}.</p><div class="scroll"><table class="sortable">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_notes(notes)}</details>"
        )
    return f"<h2>Published tables</h2>{''.join(parts)}" if parts else ""


# What the papers' columns mean here; other columns are tasks. `Q_` is another judge's, so it has no row of ours.
_OWN_METRICS = {"G_SC": "semantics", "G_PQ": "quality", "G_O": "overall"}
_OWN_TASKS = {"bg": "background", "low-level": "lowlevel", "hybrid": "compose", "addition": "add"}


def _own_score(found: dict[str, Any], column: str, table: published.Table) -> float | None:
    """The model's own mean for a column of a published table; None where there is none."""
    macro, strict = found["macro"], found["strict"]
    if "tasks" not in strict:  # by language
        if table.language not in strict:
            return None
        macro, strict = macro[table.language], strict[table.language]
    if table.subset is not None:
        strict = strict.get(table.subset, {"macro": {}, "tasks": {}})
        macro = strict["macro"]
    if column in _OWN_METRICS:
        return macro.get(_OWN_METRICS[column], {}).get("mean")
    task = _OWN_TASKS.get(column.lower(), column.lower())
    means = macro if column == table.overall else strict["tasks"].get(task, {})
    return means.get("score", {}).get("mean")


def _gallery(cases: list[JudgedCase]) -> str:
    if not cases:
        return '<p class="note">The scores came without pictures: give the judged rows for a gallery.</p>'
    # What has no score first, then the worst.
    shown = sorted(cases, key=lambda case: (case.score is not None, case.score or 0.0, case.id))

    def choices(values: Iterable[str], every: str) -> str:
        return f'<option value="">{every}</option>' + "".join(
            f'<option value="{text(value)}">{text(value)}</option>' for value in values
        )

    tasks, states = sorted({case.task for case in shown}), sorted({case.state for case in shown})
    return (
        f'<div class="controls"><label>task <select id="task">{choices(tasks, "all tasks")}</select></label>'
        f'<label>state <select id="state">{choices(states, "all states")}</select></label>'
        '<label>score from <input id="least" type="number" step="any"></label>'
        '<label>to <input id="most" type="number" step="any"></label>'
        '<button type="button" class="order">order: worst first</button><span id="shown"></span></div>'
        f'<div id="cases">{"".join(map(_case, shown))}</div>'
    )


def _case(case: JudgedCase) -> str:
    score = "no score" if case.score is None else f"{case.score:.2f}"
    words = "".join(
        f"<p><b>{text(name)}{'' if value is None else f' {value:g}'}</b> {text(said)}</p>"
        for name, value, said in case.words
    )
    return (
        f'<article class="case judged" data-task="{text(case.task)}" data-state="{text(case.state)}" '
        f'data-score="{"" if case.score is None else case.score}">'
        + _picture(case.source, "source")
        + _picture(case.result, "result")
        + f'<div class="about"><div class="tag"><b>{text(case.task)}</b> · {text(case.state)}</div>'
        + f'<div class="said"><p dir="auto">{text(case.instruction)}</p></div><div class="score">{score}</div>'
        + f'<div class="words">{words}</div><div class="id mono">{text(case.id)}</div></div></article>'
    )


def _picture(uri: str | None, name: str) -> str:
    shown = f'<img alt="{name}" src="{uri}">' if uri else '<p class="note">no picture</p>'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _protocol(facts: dict[str, Any]) -> str:
    if not facts:
        return '<p class="note">Nothing is recorded about the judge.</p>'
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{listed}</dl>'
