"""The benchmark report: one HTML file that needs nothing else, neither network nor neighbours.

Every page has the frame of `frame.html`; the parts of its own file are filled here. Everything that comes from
data (instructions, names, settings, reasons) passes through markup.text, so no string of a crawl can become
markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Any

from edittools import __version__
from edittools.bench.cases import CaseRow
from edittools.metrics import intervals
from edittools.report import digits, plots, thumbnails
from edittools.report.markup import text


def render_report(
    summary: dict[str, Any],
    cases: list[CaseRow],
    *,
    title: str,
    loss: list[tuple[int, float]] | None,
    history: list[dict[str, Any]],
    rejects: dict[str, int],
    curves: str = "",
) -> str:
    """The report as HTML text.

    `summary` is heldout.summarize's; `cases` the rows to show, in any order (cases.pick_cases chooses them);
    `loss` (step, training loss) in order of steps; `history` the stream's: {"command", "version", "settings"}
    per command; `rejects` rows dropped or failed by reason; `curves` further panels (checkpoints.curve_panels). All
    text is escaped.
    """
    tasks = summary["tasks"]
    return fill(
        "report.html",
        title=title,
        warnings="".join(f'<p class="warning"><b>Warning:</b> {text(said)}.</p>' for said in summary["warnings"]),
        summary=_paragraph(summary),
        figures=_figures(summary),
        table=_table(summary["kinds"], digits.mean_entries(summary)),
        legend=digits.LEGEND,
        tasks="" if tasks.keys() == summary["kinds"].keys() else _details("By task", _table(tasks, {})),
        plots=_plots(summary, loss) + curves,
        gallery=_gallery(cases),
        dataset=dataset_section(summary["dataset"]) if summary["dataset"] else "",
        history=history_list(history),
        failures=_failures(summary, rejects),
    )


def fill(page: str, *, title: str, **parts: str) -> str:
    """A page of this folder with its parts, in the frame, style and script that every report shares."""
    folder = resources.files("edittools.bench")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    heat = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in thumbnails.HEAT)
    return Template(read("frame.html")).substitute(
        title=text(title),
        style=read("report.css").replace("HEAT_COLOURS", heat),
        body=Template(read(page)).substitute(parts),
        sortable=read("sortable.js"),
        version=text(__version__),
    )


def _paragraph(summary: dict[str, Any]) -> str:
    """The key figures in words."""
    mean, kinds, coverage = summary["mean"], summary["kinds"], summary["coverage"]
    wins = sum(entry["verdict"] == "better" for entry in kinds.values())
    losses = sum(entry["verdict"] == "worse" for entry in kinds.values())
    ranked = sorted(kinds, key=lambda name: kinds[name]["gain"])
    doubt = f"95% interval {digits.bounds(mean['interval'], 1)}" if mean["interval"] else intervals.TOO_FEW
    parts = [
        f"Over {coverage['judged']:,} held-out rows of {plural(len(kinds), 'kind')} of edit, the results "
        f"reach {_of(mean, 'edit', 'interval')} dB PSNR against the truth ({doubt}), where handing back the "
        f"unedited source reaches {_of(mean, 'copy')} dB: a mean gain of {_gain(mean)} dB.",
        f"The gain is clearly above zero in {wins} of {len(kinds)} kinds"
        + (f", and clearly below in {losses}." if losses else "."),
    ]
    if len(ranked) > 1:
        largest, smallest = (_named_gain(name, kinds) for name in (ranked[-1], ranked[0]))
        parts.append(f"It is largest for {largest} and smallest for {smallest}.")
    if mean["shuffled"] is not None:
        parts.append(f"Given another row's instruction, the model scores {_of(mean, 'shuffled')} dB.")
    absent = coverage["failed"] + coverage["missing"] + coverage["generated"] - coverage["judged"]
    if absent:
        parts.append(f"{plural(absent, 'row')} of {coverage['expected']:,} could not be judged.")
    return " ".join(parts)


def _of(entry: dict[str, Any], name: str, interval: str | None = None) -> str:
    """A mean with the digits that its interval allows."""
    return digits.with_digits(entry[name], entry[interval or f"{name}_interval"])


def _gain(entry: dict[str, Any]) -> str:
    return digits.with_digits(entry["gain"], entry["gain_interval"], "+")


def _named_gain(kind: str, kinds: dict[str, Any]) -> str:
    return f"<b>{text(kind)}</b> ({_gain(kinds[kind])} dB)"


def _figures(summary: dict[str, Any]) -> str:
    mean, kinds = summary["mean"], summary["kinds"]
    wins = sum(entry["verdict"] == "better" for entry in kinds.values())
    figures = [
        (f"{_of(mean, 'edit', 'interval')} dB", "PSNR of the edits, mean of kinds"),
        (f"{_of(mean, 'copy')} dB", "PSNR of the unedited source"),
        (f"{_gain(mean)} dB", "gain"),
        (f"{wins} of {len(kinds)}", "kinds clearly won"),
    ]
    if mean["shuffled"] is not None:
        figures.append((f"{_of(mean, 'shuffled')} dB", "with the wrong instruction"))
    return "".join(f'<div class="figure"><b>{value}</b><span>{name}</span></div>' for value, name in figures)


def _table(entries: dict[str, Any], means: dict[str, Any]) -> str:
    head = "".join(f'<th scope="col"><button type="button">{column or "±"}</button></th>' for column in digits.COLUMNS)
    body = "".join(_table_row(name, entry) for name, entry in entries.items())
    foot = "".join(_table_row(name, entry) for name, entry in means.items())
    return (
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        + (f"<tfoot>{foot}</tfoot>" if foot else "")
        + "</table>"
    )


def _table_row(name: str, entry: dict[str, Any]) -> str:
    # What a column is sorted by, in the order of table.COLUMNS.
    order = ("worse", "unclear", "better").index(entry["verdict"])
    keys = [
        name, entry["n"], order, entry["edit"], (entry["interval"] or [None])[0], entry["copy"],
        entry["gain"], entry["inside"]["edit"], entry["inside"]["copy"], entry["shuffled"],
        entry["ssim"]["edit"], entry["ssim"]["copy"],
    ]  # fmt: skip
    cells = []
    for column, cell, key in zip(digits.COLUMNS, digits.cells(name, entry), keys):
        verdict = entry["verdict"]
        style = f' class="{verdict}" title="{verdict}"' if column in ("", "gain, dB") else ""
        cells.append(f'<td{style} data-value="{"" if key is None else text(key)}">{text(cell)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _plots(summary: dict[str, Any], loss: list[tuple[int, float]] | None) -> str:
    kinds = sorted(summary["kinds"].items(), key=lambda item: -item[1]["gain"])
    bars = [(name, entry["gain"], entry["gain_interval"], entry["verdict"]) for name, entry in kinds]
    panels = [panel("Gain per kind, with 95% intervals", plots.gain_bars(bars), wide=True)]
    histogram = summary["gain_histogram"]
    panels.append(panel("Gain per row", plots.gain_histogram(histogram["edges"], histogram["counts"])))
    finite = [(step, value) for step, value in loss or [] if math.isfinite(value)]
    if finite:
        heading = "Training loss" if len(finite) == len(loss or []) else "Training loss (where it is finite)"
        panels.append(panel(heading, plots.loss_curve(finite)))
    return "".join(panels)


def _gallery(cases: list[CaseRow]) -> str:
    if not cases:
        return '<p class="note">No cases were given to this report.</p>'
    shown = sorted(cases, key=lambda case: (case.gain, case.id))
    buttons = [
        f'<button type="button" data-kind="{text(kind)}" aria-pressed="false">{text(kind)}</button>'
        for kind in sorted({case.kind for case in shown})
    ]
    return (
        f'<p class="note">{plural(len(shown), "row")}: the worst and the best of all and of each kind, not '
        f"a fair sample. The difference is the largest of the three channels, from 0 "
        f'<span class="heat-scale"></span> to {thumbnails.HEAT_FULL} of 255 levels and more.</p>'
        '<div class="controls"><button type="button" data-kind="" aria-pressed="true">all kinds</button>'
        f'{"".join(buttons)}<button type="button" class="order">order: worst first</button></div>'
        f'<div id="cases">{"".join(map(_case, shown))}</div>'
    )


def _case(case: CaseRow) -> str:
    scores = case.scores
    verdict = "better" if case.gain > 0 else "worse" if case.gain < 0 else "unclear"
    said = "".join(
        f'<p lang="{text(language)}" dir="auto">{text(words)}</p>'
        for language, words in case.instruction.items()
        if words
    )
    inside = scores.get("psnr_inside")
    difference = "difference" + ("" if inside is None else f", inside {digits.decibels(inside)} dB")
    return (
        f'<article class="case" data-kind="{text(case.kind)}">'
        + figure(case.source, "source", f"source, {digits.decibels(scores['copy_psnr'])} dB")
        + '<div class="about"><div class="tag">'
        + f"<b>{text(case.kind)}</b>{'' if case.task == case.kind else f' · {text(case.task)}'}</div>"
        + f'<div class="said">{said}</div>'
        + f'<div class="gain {verdict}">{digits.SIGNS[verdict]} {digits.with_digits(case.gain, None, "+")} dB</div>'
        + f'<div class="id mono">{text(case.id)}</div></div>'
        + figure(case.result, "result", f"result, {digits.decibels(scores['psnr'])} dB")
        + figure(case.truth, "truth", "truth")
        + figure(thumbnails.heat_map(case.result, case.truth), "difference", difference)
        + "</article>"
    )


def figure(image, alternative: str, caption: str) -> str:
    style = ' class="tiny"' if thumbnails.is_tiny(image) else ""
    return (
        f'<figure><img{style} alt="{alternative}" src="{thumbnails.data_uri(image)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def dataset_section(dataset: dict[str, Any]) -> str:
    """A data set in numbers (dataset.DatasetStatistics), as part of a page."""
    facts = [
        ("rows", f"{dataset['rows']:,}"),
        ("images", f"{dataset['images']:,}"),
        ("distinct English words", f"{dataset['words']:,}"),
        ("distinct Chinese characters", f"{dataset['characters']:,}"),
        ("dialogues of several turns", f"{dataset['multi_turn']:,}"),
    ]
    if dataset["tiny_region_share"] is not None:
        facts.append(("edits of less than 1% of the image", f"{dataset['tiny_region_share']:.1%}"))
    panels = [panel("Rows by task", plots.count_bars(list(dataset["tasks"].items()), "rows by task"))]
    size = dataset["size"]
    if size:
        for name in ("width", "height", "short_side"):
            measure = size[name]
            values = " · ".join(f"{measure[key]:,}" for key in ("min", "median", "max"))
            facts.append((f"{name.replace('_', ' ')}: least, median, most", values))
        bins = [(_megapixels(bin), bin["count"]) for bin in size["histogram"] if bin["count"]]
        panels.append(panel("Images by size", plots.count_bars(bins, "images by size")))
        formats = list(dataset["formats"].items())
        panels.append(panel("Images by format", plots.count_bars(formats, "images by format")))
    facts += [(f"{text(name)} of at least one half", f"{share:.1%}") for name, share in dataset["detected"].items()]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        f'<h2>The data set</h2><dl class="facts">{listed}</dl><div class="plots">{"".join(panels)}</div>'
        + _score_table(dataset["scores"])
    )


def _score_table(scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return ""
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{score['n']:,}</td><td>{score['mean']:.4g}</td>"
        f"<td>{score['min']:.4g}</td><td>{score['max']:.4g}</td></tr>"
        for name, score in scores.items()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("score", "rows", "mean", "least", "most"))
    return _details("Scores", f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def history_list(history: Iterable[dict[str, Any]]) -> str:
    steps = []
    for step in history:
        settings = [
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
            for name, value in (step.get("settings") or {}).items()
        ]
        listed = " ".join(f"<span>{text(name)}={text(value)}</span>" for name, value in settings)
        steps.append(
            f"<li><code>{text(step['command'])}</code> "
            f'<span class="note">version {text(step.get("version", "unknown"))}</span>'
            f'<div class="settings mono">{listed}</div></li>'
        )
    if not steps:
        return '<p class="note">No history was recorded.</p>'
    return f'<ol class="history">{"".join(steps)}</ol>'


def _failures(summary: dict[str, Any], rejects: dict[str, int]) -> str:
    coverage = summary["coverage"]
    sentence = (
        f"{plural(coverage['expected'], 'row')} expected, {coverage['generated']:,} generated, "
        f"{coverage['judged']:,} judged, {coverage['failed']:,} failed, {coverage['missing']:,} missing."
    )
    if summary["unjudged"]:
        sentence += f" Kinds without a single judged row: {text(', '.join(summary['unjudged']))}."
    if not rejects:
        return f"<p>{sentence} No row was rejected.</p>"
    ranked = sorted(rejects.items(), key=lambda item: (-item[1], item[0]))
    rows = "".join(f"<tr><td>{text(reason)}</td><td>{count:,}</td></tr>" for reason, count in ranked)
    head = '<thead><tr><th scope="col">reason</th><th scope="col">rows</th></tr></thead>'
    return (
        f"<p>{sentence} Rejected on the way, by reason:</p>"
        f'<div class="scroll"><table class="reasons">{head}<tbody>{rows}</tbody></table></div>'
    )


def panel(heading: str, plot: str, wide: bool = False) -> str:
    return f'<div class="panel{" wide" if wide else ""}"><h3>{heading}</h3>{plot}</div>'


def _details(heading: str, body: str) -> str:
    return f'<details><summary>{heading}</summary><div class="scroll">{body}</div></details>'


def _megapixels(bin: dict[str, Any]) -> str:
    if bin["to"] is None:
        return f"{bin['from']:g} MP and more"
    return f"{bin['from']:g} to {bin['to']:g} MP"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
