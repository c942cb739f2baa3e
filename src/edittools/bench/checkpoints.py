"""The models that a run has kept, side by side: their held-out losses, and the scores of what they make.

A run folder holds `heldout.jsonl` (edittools.train.heldout), kept models `@STEP/`, and in `eval/` the rows that each of
them has edited: `eval/@STEP/` as `edit eval checkpoints` makes them, and `eval/@STEP.NAME/` as others judged them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edittools.bench.report import fill
from edittools.bench.terminal import ReportListing
from edittools.errors import EditError
from edittools.judge.judgements import score_dimensions
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.metrics import intervals
from edittools.report import digits as table
from edittools.report import plots
from edittools.report.markup import text
from edittools.rounding import rounded
from edittools.stream.rows import column_values
from edittools.stream.source import Source

FOLDER = "eval"  # of a run: what its models have made
MEASURED = ("psnr", "gain", "ssim", "psnr_inside", "clip", "dino")
LOSSES = {"raw": "held-out loss", "average": "… of the average"}
TRAINING = "Training loss"
LEGEND = (
    "held-out loss: of rows that are not trained on, at fixed times and noise, with the weights of the step and with "
    "their average, which is the model that is kept. psnr, ssim: of the result against the truth. gain: psnr less that "
    "of the unedited source, dB. Brackets: 95% intervals over rows."
)


def kept_models(run: Path) -> dict[int, Path]:
    """Step -> the folder of its model, in order: what was kept on the way, and what the run has left.

    Raises EditError where there is no model.
    """
    models = {int(path.name[1:]): path for path in run.glob("@*") if path.name[1:].isdecimal() and path.is_dir()}
    if (run / "_end.json").is_file():
        models.setdefault(int(_json(run / "_end.json")["steps"]), run)
    if not models:
        hint = "`keep_every` of a recipe keeps some; a run leaves its last"
        raise EditError(f"{run}: no model to evaluate", hint=hint)
    return dict(sorted(models.items()))


def heldout_rows(run: Path) -> list[str]:
    """The rows that the run was measured with; none where there are none any more."""
    path = run / "heldout.json"
    places = _json(path).get("input", []) if path.is_file() else []
    return [place for place in places if "://" in place or Path(place).exists()]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EditError(f"{path}: damaged: {error}") from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; none where there is none. Raises EditError where it is damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise EditError(f"{path}: no log of a training run: {error}") from error


def row_scores(source: Source) -> dict[str, dict[str, float]]:
    """The numbers in `scores` of every row by its id, and the gain."""
    by_id = {}
    for batch in source.batches(lambda shard: True):
        for identity, scores in zip(column_values(batch.rows, "id"), column_values(batch.rows, "scores")):
            numbers = {
                name: float(value)
                for name, value in (scores or {}).items()
                if isinstance(value, (int, float)) and math.isfinite(value)
            }
            if {"psnr", "copy_psnr"} <= numbers.keys():
                numbers["gain"] = numbers["psnr"] - numbers["copy_psnr"]
            by_id[str(identity)] = numbers
    return by_id


def summarize(run: Path, judged: Mapping[int, Iterable[Source]]) -> dict[str, Any]:
    """{"run", "checkpoints": [{"step", "model", "loss": {...}, "scores": {...}}]}: means with their intervals."""
    losses = {line["step"]: line for line in read_log(run / "heldout.jsonl")}
    entries = []
    for step, folder in kept_models(run).items():
        rows: dict[str, dict[str, float]] = defaultdict(dict)  # a row that was judged has what was measured of it too
        for source in judged.get(step, ()):
            for identity, numbers in row_scores(source).items():
                rows[identity] |= numbers
        values: dict[str, list[float]] = defaultdict(list)
        for numbers in rows.values():
            for name, value in numbers.items():
                values[name].append(value)
        scores = {name: _mean(np.array(each)) for name, each in sorted(values.items())}
        name = folder.name if folder != run else "the run's last"
        entries.append({"step": step, "model": name, "loss": _loss(losses.get(step)), "scores": scores})
    return {"run": run.name, "checkpoints": entries}


def _mean(values: np.ndarray) -> dict[str, Any]:
    limits = intervals.student_limits(values)
    entry = {"n": len(values), "mean": float(values.mean()), "interval": intervals.interval(limits, len(values))}
    return rounded(entry)


def _loss(line: dict[str, Any] | None) -> dict[str, Any]:
    """The losses of a step, with Student's intervals of their means over rows."""
    if line is None:
        return {}
    losses = {}
    for name, mean in line["loss"].items():
        count, deviation = line["rows"], line.get("deviation", {}).get(name)
        limits = intervals.NO_LIMITS
        if deviation is not None and count > 1:
            half = intervals.student_half(deviation, count)
            limits = (mean - half, mean + half)
        losses[name] = rounded({"n": count, "mean": mean, "interval": intervals.interval(limits, count)})
    return losses


def score_columns(summary: dict[str, Any]) -> list[str]:
    """The scores that the table shows: measured ones, then judges' own; what stands beside a score is left out."""
    names = {name for entry in summary["checkpoints"] for name in entry["scores"]}
    rubrics = {name: [one.name for one in load_rubric(name).dimensions] for name in rubric_names()}
    return [name for name in MEASURED if name in names] + sorted(score_dimensions(names, rubrics))


def listing(summary: dict[str, Any]) -> ReportListing:
    """The one table."""
    losses = [name for name in LOSSES if any(name in entry["loss"] for entry in summary["checkpoints"])]
    scores = score_columns(summary)
    columns = ["step", "model", *(LOSSES[name] for name in losses), *scores]
    rows = [
        [str(entry["step"]), entry["model"], *(_cell(entry["loss"].get(name), 4) for name in losses),
         *(_cell(entry["scores"].get(name), 1) for name in scores)]
        for entry in summary["checkpoints"]
    ]  # fmt: skip
    return ReportListing(f"Checkpoints of {summary['run']}", columns, rows, [LEGEND])


def _cell(entry: dict[str, Any] | None, digits: int) -> str:
    """A mean and its interval with the digits that it allows; `digits` of a mean without one."""
    if entry is None:
        return "–"
    mean, bounds = entry["mean"], entry["interval"]
    if bounds is not None:
        mean_text, low, high = (table.with_digits(value, bounds, most=6) for value in (mean, *bounds))
        return f"{mean_text} [{low}, {high}]"
    few = f" [{intervals.TOO_FEW}]" if entry["n"] < intervals.MIN_CASES else ""
    return f"{mean:.{digits}f}".replace("-", "−") + few


def render(summary: dict[str, Any], run: Path, title: str) -> str:
    """The table and the curves as one page."""
    printed = listing(summary)
    head = "".join(f'<th scope="col"><button type="button">{text(column)}</button></th>' for column in printed.columns)
    body = "".join(
        "<tr>" + "".join(f'<td data-value="{text(_key(cell))}">{text(cell)}</td>' for cell in row) + "</tr>"
        for row in printed.rows
    )
    curves = training_curves(run)
    for name in score_columns(summary):
        points = [(e["step"], e["scores"][name]["mean"]) for e in summary["checkpoints"] if name in e["scores"]]
        curves.append((name, [("mean", points)]))
    return fill(
        "checkpoints.html",
        title=title,
        table=f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>',
        legend=text(LEGEND),
        plots=curve_panels(curves),
    )


def _key(cell: str) -> str:
    first = cell.split(" ")[0].lstrip("@").replace("−", "-")
    return first if first != "–" else ""


Curves = list[tuple[str, list[tuple[str, list[tuple[int, float]]]]]]
"""Headings, and of each the named lines of a plot: points (step, value)."""


def training_curves(run: Path) -> Curves:
    """The training loss, the held-out losses, and these by task and by time, as a run's logs have them."""
    log, held = read_log(run / "log.jsonl"), read_log(run / "heldout.jsonl")
    curves: Curves = [(TRAINING, [("loss", [(line["step"], line["loss"]) for line in log if "loss" in line])])]
    curves.append(("Held-out loss", _lines(held, "loss", None)))
    for part, heading in (("by_task", "Held-out loss by task"), ("by_time", "Held-out loss by time t")):
        curves.append((heading, _lines(held, part, "average") or _lines(held, part, "raw")))
    rates = [(line["step"], line["rate"]) for line in log if "rate" in line]
    norms = [(line["step"], line["grad_norm"]) for line in log if "grad_norm" in line]
    curves += [("Learning rate, as a share of the recipe's", [("rate", rates)]), ("Gradient norm", [("norm", norms)])]
    return [(heading, lines) for heading, lines in curves if any(points for _, points in lines)]


def _lines(held: list[dict[str, Any]], part: str, of: str | None) -> list[tuple[str, list[tuple[int, float]]]]:
    """The lines of a table of heldout.jsonl; of one kind of weights where `of` names it."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in held:
        values = line[part] if of is None else line[part].get(of, {})
        for name, value in values.items():
            lines[name].append((line["step"], value))
    return list(lines.items())


def curve_panels(curves: Curves) -> str:
    panels = []
    for heading, lines in curves:
        finite = [(name, [(step, value) for step, value in points if math.isfinite(value)]) for name, points in lines]
        finite = [(name, points) for name, points in finite if points]
        if finite:
            plot = plots.loss_curve(finite[0][1]) if heading == TRAINING else plots.curves(finite, heading)
            panels.append(f'<div class="panel"><h3>{text(heading)}</h3>{plot}</div>')
    return "".join(panels)
