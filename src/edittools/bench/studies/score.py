"""Scores of a human study: means with intervals, comparisons of every two models, pick ratios, agreement.

A rater's case counts when it is complete (every result rated in every dimension, or all picks made); half-rated
ones are counted and left out, since a rater compares the results of a case with each other. A case's score is the
mean over its raters; a task's the mean over its cases, the model's the mean over tasks (Step1X-Edit 4.2.2). With
values of 0 and 1 these are the pick ratio (ImgEdit table 3) and the share of yes.

Two sets of cases, as in Step1X-Edit's table 4: `full`, each model over all cases in which it has a result, and
`intersection`, the cases in which every model has one.

Intervals speak of other cases and of other raters (metrics.crossed); with one rater there are none.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edittools.bench.studies.answers import given_answers
from edittools.bench.studies.design import Design, design_of
from edittools.metrics import agreement, intervals
from edittools.metrics.crossed import Rated, crossed_limits, mean_of
from edittools.report import digits as table
from edittools.rounding import rounded

Ratings = dict[tuple[int, str], dict[str, float]]
"""(case, model) -> rater -> value, of one dimension."""


def score(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """The result of a study, from its key and one answers file per rater. `seed` is the intervals'.

    Raises EditError for answers of another study, a rater who comes twice, or answers that the design has not.
    """
    asked = design_of(key)
    ratings: dict[str, Ratings] = {dimension.name: defaultdict(dict) for dimension in asked.dimensions}
    positions: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in ratings}
    raters = {str(given.get("rater")): {"complete": 0, "incomplete": 0} for given in answers}
    for rater, number, answer, values in given_answers(key, answers, asked):
        raters[rater]["incomplete" if values is None else "complete"] += 1
        shown, letters = answer.get("shown") or [], key["cases"][number]["results"]
        for (letter, dimension), value in (values or {}).items():
            ratings[dimension][number, letters[letter]][rater] = value
            if letter in shown:
                positions[dimension][shown.index(letter)].append(value)

    cases = key["cases"]
    judged = {case for case, _ in next(iter(ratings.values()))}
    return rounded(
        {
            "study": key["study"],
            "design": key["design"],
            "models": list(key["models"]),
            "raters": raters,
            "cases": {
                "asked": len(cases),
                "judged": len(judged),
                "intersection": sum(len(cases[case]["results"]) == len(key["models"]) for case in judged),
                "dropped": len(key["dropped"]),
            },
            "dimensions": {
                name: {
                    "full": _means(rated, key, asked, False, seed),
                    "intersection": _means(rated, key, asked, True, seed),
                    "pairs": _pairs(rated, key, asked, seed),
                    "agreement": agreement_of(rated, list(raters), asked),
                    # The order is random, so these would be equal if a result's place did not matter.
                    "by_position": [intervals.mean(positions[name][place]) for place in sorted(positions[name])],
                }
                for name, rated in ratings.items()
            },
        }
    )


def export(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """One line of JSON per value: rater, id of the case, task, model, dimension, value."""
    asked, lines = design_of(key), []
    for rater, number, _, values in given_answers(key, answers, asked):
        case = key["cases"][number]
        for (letter, dimension), value in (values or {}).items():
            said = {"id": case["id"], "task": case["task"], "model": case["results"][letter], "rater": rater}
            lines.append(json.dumps({**said, "dimension": dimension, "score": value}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _means(rated: Ratings, key: Mapping[str, Any], asked: Design, intersection: bool, seed: int) -> dict[str, Any]:
    """model -> mean over tasks, its 95% interval, and the tasks."""
    cases = key["cases"]
    found: dict[str, list[Rated]] = {model: [] for model in key["models"]}
    for (case, model), by_rater in sorted(rated.items()):
        if not intersection or len(cases[case]["results"]) == len(key["models"]):
            found[model] += (Rated(cases[case]["task"], case, rater, value) for rater, value in by_rater.items())
    scale = (min(asked.values), max(asked.values))
    return {model: _entry(ratings, scale, seed) for model, ratings in found.items()}


def _entry(ratings: list[Rated], scale: tuple[float, float], seed: int) -> dict[str, Any]:
    tasks = _by_task(ratings)
    cases = sum(map(len, tasks.values()))
    return {
        "mean": mean_of(ratings) if ratings else None,
        "interval": interval_of(ratings, scale, seed),
        "cases": cases,
        "tasks": {task: {"mean": intervals.mean(tasks[task]), "cases": len(tasks[task])} for task in sorted(tasks)},
    }


def _by_task(ratings: Iterable[Rated]) -> dict[str, list[float]]:
    """Task -> the mean of each of its cases over its raters."""
    cases: dict[tuple[str, Any], list[float]] = defaultdict(list)
    for one in ratings:
        cases[str(one.group), one.case].append(one.value)
    tasks: dict[str, list[float]] = defaultdict(list)
    for (task, _), values in cases.items():
        tasks[task].append(float(np.mean(values)))
    return tasks


def interval_of(ratings: list[Rated], scale: tuple[float, float], seed: int) -> list[float] | None:
    """95% interval of mean_of() for other cases and raters, inside the scale; None where there are too few of either.

    It is never narrower than that of the cases alone, which holds where all that few of them were given is the same.
    """
    if not ratings:
        return None
    tasks = _by_task(ratings)
    samples = [
        intervals.BootstrapSample(np.array(values)[:, None], [seed, zlib.crc32(task.encode("utf-8", "replace"))])
        for task, values in tasks.items()
    ]
    low, high = intervals.bounded_limits(samples, [1] * len(samples), [scale], seed)[0]
    lower, upper = crossed_limits(ratings)
    if math.isinf(lower):
        return None
    limits = (max(scale[0], min(low, lower)), min(scale[1], max(high, upper)))
    return intervals.interval(limits, sum(map(len, tasks.values())))


def _pairs(rated: Ratings, key: Mapping[str, Any], asked: Design, seed: int) -> list[dict[str, Any]]:
    """Every two models over the cases in which a rater rated both: by how much the first is better, and how often.

    A rater who rates two results of a case alike is half a win for each.
    """
    span = max(asked.values) - min(asked.values)
    pairs = []
    for first, second in itertools.combinations(key["models"], 2):
        apart: list[Rated] = []
        for (case, model), by_rater in sorted(rated.items()):
            other = rated.get((case, second), {}) if model == first else {}
            both = [(rater, value - other[rater]) for rater, value in by_rater.items() if rater in other]
            apart += (Rated(key["cases"][case]["task"], case, rater, value) for rater, value in both)
        won = [Rated(one.group, one.case, one.rater, (1 + np.sign(one.value)) / 2) for one in apart]
        signs = [int(np.sign(one.value)) for one in apart]
        pairs.append(
            {
                "first": first,
                "second": second,
                "difference": mean_of(apart) if apart else None,
                "interval": interval_of(apart, (-span, span), seed),
                "win_rate": mean_of(won) if won else None,
                "win_interval": interval_of(won, (0, 1), seed),
                "won": signs.count(1),
                "tied": signs.count(0),
                "lost": signs.count(-1),
                "cases": len({one.case for one in apart}),
            }
        )
    return pairs


def agreement_of(rated: Ratings, raters: list[str], asked: Design) -> dict[str, Any]:
    """Krippendorff's alpha; share within one level and rank correlation, each the mean over pairs of raters."""
    table = [[by_rater.get(rater) for _, by_rater in sorted(rated.items())] for rater in raters]
    entry: dict[str, Any] = {"alpha": agreement.krippendorff_alpha(table, asked.measure), "measure": asked.measure}
    if len(asked.values) > 2:
        pairs = list(itertools.combinations(table, 2))
        step = asked.values[1] - asked.values[0]
        entry["within_one"] = intervals.mean(agreement.share_within(a, b, step) for a, b in pairs)
        entry["spearman"] = intervals.mean(agreement.spearman(a, b) for a, b in pairs)
    return entry


def as_text(found: Mapping[str, Any], markdown: bool = False) -> str:
    """A table per dimension and set, and who rated, in GitHub's Markdown or aligned for a terminal."""
    lines: list[str] = []
    raters = len(found["raters"])
    for name, entry in found["dimensions"].items():
        for which in ("full", "intersection"):
            if which == "intersection" and entry["intersection"] == entry["full"]:
                continue
            cases = "each model's cases" if which == "full" else f"{found['cases']['intersection']} cases"
            heading = f"{name}, {which} set" if entry["intersection"] != entry["full"] else name
            lines += [f"{heading} ({cases})", "", *aligned(_rows(entry[which], raters), markdown), ""]
        if entry["pairs"]:
            lines += [f"{name}, every two models", "", *aligned(_pair_rows(entry["pairs"], raters), markdown), ""]
        numbers = [
            f"{label} {value:.3f}"
            for label, measure in (
                ("Krippendorff's alpha", "alpha"),
                ("within one level", "within_one"),
                ("Spearman", "spearman"),
            )
            if (value := entry["agreement"].get(measure)) is not None
        ]
        if numbers:
            lines += [f"Agreement on {name}: {', '.join(numbers)}.", ""]
    half = sum(counts["incomplete"] for counts in found["raters"].values())
    cases = found["cases"]
    lines.append(
        f"Raters: {len(found['raters'])}; cases judged: {cases['judged']} of {cases['asked']}, "
        f"dropped before: {cases['dropped']}; half-rated and left out: {half}."
    )
    return "\n".join([*lines, ""])


def _rows(models: Mapping[str, Any], raters: int) -> list[list[str]]:
    tasks = sorted({task for entry in models.values() for task in entry["tasks"]})
    rows = [["model", "mean", "95% interval", "cases", *tasks]]
    for model, entry in sorted(models.items(), key=lambda item: -(item[1]["mean"] or 0)):
        interval = entry["interval"]
        rows.append(
            [
                model,
                table.with_digits(entry["mean"], interval),
                _bounds(interval, entry["cases"], raters),
                str(entry["cases"]),
                *(_number((entry["tasks"].get(task) or {}).get("mean")) for task in tasks),
            ]
        )
    return rows


def _pair_rows(pairs: Sequence[Mapping[str, Any]], raters: int) -> list[list[str]]:
    rows = [["first", "second", "difference", "95% interval", "win rate", "95% interval", "won", "tied", "lost"]]
    for pair in pairs:
        interval, wins, cases = pair["interval"], pair["win_interval"], pair["cases"]
        rows.append(
            [
                pair["first"],
                pair["second"],
                table.with_digits(pair["difference"], interval, "+"),
                _bounds(interval, cases, raters, "+"),
                table.with_digits(pair["win_rate"], wins),
                _bounds(wins, cases, raters),
                *(str(pair[name]) for name in ("won", "tied", "lost")),
            ]
        )
    return rows


def _bounds(interval: Sequence[float] | None, cases: int, raters: int, sign: str = "") -> str:
    if interval is None and cases >= intervals.MIN_CASES and raters < 2:
        return "one rater"
    return table.bounds(interval, cases, sign)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def aligned(rows: list[list[str]], markdown: bool) -> list[str]:
    # Names come from data: no line break or control character reaches the terminal.
    clean = [["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows]
    if markdown:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in clean]
        return [lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]]
    widths = [max(map(len, column)) for column in zip(*clean)]
    name, *others = widths
    return ["  ".join([row[0].ljust(name), *map(str.rjust, row[1:], others)]) for row in clean]
