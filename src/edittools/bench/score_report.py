"""The report on a public benchmark: one HTML file with tables, bars and a gallery of what the judge saw and said."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from edittools.bench import published
from edittools.bench.report import fill, history_list
from edittools.bench.terminal import MEANS, WITHOUT_FAILED, ReportListing, ScoreTable, official_average
from edittools.metrics import intervals
from edittools.report import digits, plots
from edittools.report.markup import text
from edittools.suites.shared.types import Benchmark, JudgedCase

_WORDS = 24  # characters of a cell from which on it is words


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
        warnings=warning_lines(found["warnings"]),
        summary=_summary(benchmark, tables),
        figures=_figures(tables),
        tables="".join(_table(tables, language) for language in tables.languages) + _notes(found["notes"]),
        further="".join(map(listing_section, tables.further())),
        published=published_tables(benchmark.name, benchmark, tables, name),
        plots=_plots(_bars(benchmark, tables, language) for language in tables.languages),
        gallery=_gallery(_worst_first(cases)),
        protocol=_protocol(protocol),
        history=history_list(history),
    )


def render_text_subset(
    found: dict[str, Any],
    listings: list[ReportListing],
    cases: list[JudgedCase],
    task: str,
    scales: dict[str, tuple[int, int]],
    *,
    title: str,
    protocol: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> str:
    """The report on a benchmark's text subset as HTML text.

    `found` is TextSubset.summary's, `listings` the same as tables, `task` says whose cases they are,
    and `scales` are the bounds of each metric.
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
        warnings=warning_lines(found["warnings"]),
        summary=f"{len(cases):,} cases of {task}, by {text(', '.join(metrics))}.",
        figures="".join(
            _figure(digits.with_digits(entry["mean"], entry["interval"]), name) for name, entry in metrics.items()
        ),
        tables=listing_section(listings[0]),
        further="".join(map(listing_section, listings[1:])),
        published="",
        plots=_plots(panels),
        gallery=_gallery(_worst_first(cases)),
        protocol=_protocol(protocol),
        history=history_list(history),
    )


def render_pairwise(
    listings: list[ReportListing],
    warnings: Iterable[str],
    cases: list[JudgedCase],
    *,
    title: str,
    summary: str,
    protocol: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> str:
    """The report on models compared two by two as HTML text; the cases in the order in which they are shown."""
    return fill(
        "scores.html",
        title=title,
        warnings=warning_lines(warnings),
        summary=text(summary),
        figures="",
        tables="".join(map(listing_section, listings)),
        further="",
        published="",
        plots="",
        gallery=_gallery(cases, ("most contested first", "clearest first")),
        protocol=_protocol(protocol),
        history=history_list(history),
    )


def warning_lines(warnings: Iterable[str]) -> str:
    return "".join(f'<p class="warning"><b>Warning:</b> {text(said)}.</p>' for said in warnings)


def _summary(benchmark: Benchmark, tables: ScoreTable) -> str:
    sentences = []
    for language in tables.languages:
        counts = tables.part("coverage", language)["total"]
        where = f" ({text(language)})" if language else ""
        mean, bounds, whose = tables.headline(language)
        if mean is None:
            sentences.append(f"{text(benchmark.name)}{where}: no case has a score.")
            continue
        if tables.official:
            said = f"{mean:.3f}, {whose}"
        else:
            said = digits.with_digits(mean, bounds)
            said += f" (95% interval {digits.bounds(bounds, 1)})" if bounds else f" ({intervals.TOO_FEW})"
            said += f", mean over {tables.part('macro', language)[tables.metrics[-1]]['tasks']} tasks"
        asked = "" if counts["expected"] is None else f" of {counts['expected']:,}"
        missing = "an unknown number" if counts["missing"] is None else f"{counts['missing']:,}"
        sentences.append(
            f"{text(benchmark.name)}{where}: {tables.metrics[-1]} {said}; "
            f"{counts['judged']:,}{asked} cases judged, {counts['failed']:,} failed, {missing} missing."
        )
    return " ".join(sentences)


def _figures(tables: ScoreTable) -> str:
    cells = []
    for language in tables.languages:
        metric = tables.metrics[-1]
        name = " ".join(filter(None, (metric, language)))
        mean, bounds, whose = tables.headline(language)
        if tables.official:
            cells.append(_figure("–" if mean is None else f"{mean:.3f}", f"{name}, {whose}"))
        else:
            micro = tables.part("micro", language)[metric]
            cells.append(_figure(digits.with_digits(mean, bounds), f"{name}, mean over tasks"))
            cells.append(_figure(digits.with_digits(micro["mean"], micro["interval"]), f"{name}, mean over cases"))
        counts = tables.part("coverage", language)["total"]
        missing = "?" if counts["missing"] is None else str(counts["missing"])
        cells.append(_figure(str(counts["failed"]), "cases that failed"))
        cells.append(_figure(missing, "cases that are missing"))
    return "".join(cells)


def _figure(value: str, name: str) -> str:
    return f'<div class="figure"><b>{text(value)}</b><span>{text(name)}</span></div>'


def _plots(panels: Iterable[str]) -> str:
    drawn = "".join(panels)
    return f'<h2>Mean scores</h2><div class="plots">{drawn}</div>' if drawn else ""


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


def _row(cells: list[str], wordy: Container[int] = ()) -> str:
    def key(cell: str) -> str:
        first = cell.split("–")[0].split("/")[0].replace("−", "-").replace(",", "").rstrip("%")
        return first if first.lstrip("-").replace(".", "", 1).isdigit() else ""

    named = f'<td data-value="{text(cells[0])}">{text(cells[0])}</td>'
    others = (
        f"<td data-value={key(c)!r}{' class=words' if k in wordy else ''}>{text(c)}</td>"
        for k, c in enumerate(cells[1:], 1)
    )
    return f"<tr>{named}{''.join(others)}</tr>"


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


def _bars(benchmark: Benchmark, tables: ScoreTable, language: str) -> str:
    metric = tables.metrics[-1]
    heading = " ".join(filter(None, (metric, language)))
    if tables.official:
        means, whose = tables.official_means(language)
        bars = [(name, one[metric], None) for name, one in means.items() if name not in (*MEANS, "Overall")]
        heading += f", {whose}"
    else:
        tasks = tables.part("strict", language)["tasks"]
        bars = [(name, e[metric]["mean"], e[metric]["interval"]) for name, e in tasks.items() if e["n"]]
    bars = [bar for bar in bars if isinstance(bar[1], float)]
    if not bars:
        return ""
    low, high = benchmark.metrics[metric]
    return _panel(heading, plots.score_bars(bars, low, high))


def listing_section(made: ReportListing) -> str:
    """A table under its title, which can be sorted by a click; columns with long cells are words, and no numbers."""
    wordy = {k for k in range(1, len(made.columns)) if any(len(row[k]) > _WORDS for row in made.rows)}
    head = "".join(
        f'<th scope="col"{" class=words" if k in wordy else ""}><button type="button">{text(name)}</button></th>'
        for k, name in enumerate(made.columns)
    )
    body = "".join(_row(row, wordy) for row in made.rows)
    return (
        f'<h2>{text(made.title)}</h2><div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_notes(made.notes)}"
    )


def published_tables(
    about: str,
    benchmark: Benchmark | None = None,
    tables: ScoreTable | None = None,
    name: str = "",
    own: Mapping[str, ReportListing] | None = None,
) -> str:
    """The papers' own tables of a benchmark, or of `dataset`; with `tables` the model's row first: its official
    means, as theirs are, whatever else the report shows. Judge and protocol may differ from the paper's. `own` are rows
    that stand first, and their notes, by the table's name."""
    parts = []
    for paper in map(published.load, published.names()):
        if paper.benchmark != about:
            continue
        rows = [[row.model, *map(str, row.scores.values())] for row in paper.rows]
        if benchmark is not None and tables is not None:
            rows = _own_rows(benchmark, tables, paper, name) + rows
        mine = (own or {}).get(paper.name)
        rows = (mine.rows if mine is not None else []) + rows
        titles = ["model", *paper.columns]
        head = "".join(f'<th scope="col"><button type="button">{text(title)}</button></th>' for title in titles)
        body = "".join(map(_row, rows))
        notes = [*paper.notes, *(f"{model}: {why}" for model, why in paper.exceptions.items())]
        notes += mine.notes if mine is not None else []
        shown = " open" if mine is not None else ""
        judged = f", judged by {paper.judge}" if paper.judge else ""
        parts.append(
            f"<details{shown}><summary>{text(paper.title)}: {text(paper.paper)}, {text(paper.table)}</summary>"
            f'<p class="note">{text(paper.metric)}{text(judged)}.</p><div class="scroll"><table class="sortable">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_notes(notes)}</details>"
        )
    return f"<h2>Published tables</h2>{''.join(parts)}" if parts else ""


def _own_rows(benchmark: Benchmark, tables: ScoreTable, paper: published.PublishedTable, name: str) -> list[list[str]]:
    """The model's rows for a published table: the official means, and those without what failed where they differ."""
    rows = []
    language = (paper.language or "") if not tables.flat else ""
    for part, whose in (("official_means", "here"), ("official_without_failed", f"here, {WITHOUT_FAILED}")):
        means = tables.part(part, language)
        mine = [_own_score(benchmark, means, column, paper) for column in paper.columns]
        # A mean over other tasks than the table's (another suite's) is no score for it.
        if any(value is not None for value, column in zip(mine, paper.columns) if column != paper.overall):
            rows.append([f"{name} ({whose})", *map(_official_cell, mine)])
    return rows


def _official_cell(value: float | str | None) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else value


def _own_score(
    benchmark: Benchmark, means: dict[str, Any], column: str, paper: published.PublishedTable
) -> float | str | None:
    """The official mean for a column of a published table, "nan" where the script gives that; None without one."""
    named = {other: benchmark.columns.get(other, other.lower()) for other in paper.columns}
    if named[column] in benchmark.metrics:
        return means.get(paper.subset or "average", {}).get(named[column])
    if column != paper.overall:
        return means.get(named[column], {}).get("score")
    others = [named[other] for other in paper.columns if other != column]
    whole = "average" in means or all(task in means for task in others)
    return official_average(means, others).get("score") if whole else None


def _worst_first(cases: list[JudgedCase]) -> list[JudgedCase]:
    """Sort key: cases without a score first, then the worst."""
    return sorted(cases, key=lambda case: (case.score is not None, case.score or 0.0, case.id))


def _gallery(shown: list[JudgedCase], orders: tuple[str, str] = ("worst first", "best first")) -> str:
    """The cases in this order; `orders` are what it is called, and what it is called the other way round."""
    if not shown:
        return '<p class="note">The scores came without images: give the judged rows for a gallery.</p>'

    def choices(values: Iterable[str], every: str) -> str:
        return f'<option value="">{every}</option>' + "".join(
            f'<option value="{text(value)}">{text(value)}</option>' for value in values
        )

    tasks, states = sorted({case.task for case in shown}), sorted({case.state for case in shown})
    first, other = (f"order: {name}" for name in orders)
    return (
        f'<div class="controls"><label>task <select id="task">{choices(tasks, "all tasks")}</select></label>'
        f'<label>state <select id="state">{choices(states, "all states")}</select></label>'
        '<label>score from <input id="least" type="number" step="any"></label>'
        '<label>to <input id="most" type="number" step="any"></label>'
        f'<button type="button" class="order" data-other="{other}">{first}</button><span id="shown"></span></div>'
        f'<div id="cases">{"".join(map(_case, shown))}</div>'
    )


def _case(case: JudgedCase) -> str:
    score = case.verdict or ("no score" if case.score is None else f"{case.score:.2f}")
    words = "".join(
        f"<p><b>{text(name)}{'' if value is None else f' {value:g}'}</b> {text(said)}</p>"
        for name, value, said in case.words
    )
    return (
        f'<article class="case judged" style="--images: {min(len(case.images), 3)}" data-task="{text(case.task)}" '
        f'data-state="{text(case.state)}" data-score="{"" if case.score is None else case.score}">'
        + f'<div class="images">{"".join(_image(uri, caption) for caption, uri in case.images)}</div>'
        + f'<div class="about"><div class="tag"><b>{text(case.task)}</b> · {text(case.state)}</div>'
        + f'<div class="said"><p dir="auto">{text(case.instruction)}</p></div><div class="score">{text(score)}</div>'
        + f'<div class="words">{words}</div><div class="id mono">{text(case.id)}</div></div></article>'
    )


def _image(uri: str | None, name: str) -> str:
    shown = f'<img alt="{text(name)}" src="{uri}">' if uri else '<p class="note">no image</p>'
    return f"<figure>{shown}<figcaption>{text(name)}</figcaption></figure>"


def _protocol(facts: dict[str, Any]) -> str:
    if not facts:
        return '<p class="note">Nothing is recorded about the judge.</p>'
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{listed}</dl>'
