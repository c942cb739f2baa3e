"""The page on a data set: what it consists of, what became of the rows on the way, and some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edittools.bench.dataset_tables import composition, funnel_listing, published_row, set_name, task_listing
from edittools.bench.report import dataset_section, figure, fill, history_list, panel, plural
from edittools.bench.sampled import SampledRow
from edittools.bench.score_report import listing_section, published_tables, warning_lines
from edittools.report import plots
from edittools.report.markup import text


def render_dataset(
    dataset: dict[str, Any],
    *,
    title: str,
    history: Iterable[dict[str, Any]],
    sample: Sequence[SampledRow] = (),
    score: str | None = None,
) -> str:
    """A data set in numbers (evaluate.dataset_statistics) as HTML text, with what papers say of theirs, and some of its
    rows. `score` is the one that stands for quality."""
    return fill(
        "dataset.html",
        title=title,
        warnings=warning_lines(dataset["funnel"]["warnings"]),
        dataset=dataset_section(dataset),
        tasks=listing_section(task_listing(dataset, score)),
        funnel=_funnel(dataset["funnel"]),
        composition="".join(map(listing_section, composition(dataset))),
        sample=_sample(sample, dataset["rows"]) if sample else "",
        published=published_tables("dataset", own={"imgedit-datasets": published_row(dataset, score)}),
        history=history_list(history),
    )


def _funnel(funnel: dict[str, Any]) -> str:
    made = funnel_listing(funnel)
    if not made.rows:
        return ""
    first, *_ = steps = funnel["steps"]
    bars = [("read", first["read"])] + [(f"{step['command']}, {set_name(step)}", step["written"]) for step in steps]
    drawn = plots.count_bars([(name, count) for name, count in bars if count is not None], "rows after each command")
    return listing_section(made) + f'<div class="plots">{panel("Rows that are left", drawn)}</div>'


def _sample(rows: Sequence[SampledRow], of: int) -> str:
    shown = "".join(map(_sampled, rows))
    note = f"{plural(len(rows), 'row')} of {of:,}, each as likely as any other."
    return f'<h2>Rows at random</h2><p class="note">{note}</p><div class="sample">{shown}</div>'


def _sampled(row: SampledRow) -> str:
    said = "".join(f'<p lang="{text(key)}" dir="auto">{text(words)}</p>' for key, words in row.texts.items())
    scores = ", ".join(f"{text(name)} {value:.4g}" for name, value in row.scores.items())
    replies = "".join(
        f'<details><summary>{text(who)}</summary><p class="reply">{text(reply)}</p></details>'
        for who, reply in row.replies
    )
    return (
        f'<article class="row"><div class="about"><div class="tag"><b>{text(row.task)}</b></div>'
        f'<div class="said">{said}</div><div class="id mono">{text(row.id)}</div><div class="id">{scores}</div>'
        + f"{replies}</div>"
        + "".join(
            f'<p class="note">{text(name)}: {text(image)}</p>' if isinstance(image, str) else figure(image, name, name)
            for name, image in row.images
        )
        + "</article>"
    )
