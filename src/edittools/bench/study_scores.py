"""What raters answered, as numbers: means with intervals, pick ratios, agreement.

A rater's case counts when it is complete (every result rated in every dimension, or all picks made); half-rated
ones are counted and left out, since a rater compares the results of a case with each other. A case's score is the
mean over its raters; a task's the mean over its cases, the model's the mean over tasks (Step1X-Edit 4.2.2). With
values of 0 and 1 these are the pick ratio (ImgEdit table 3) and the share of yes.

Two sets of cases, as in Step1X-Edit's table 4: `full`, each model over all cases in which it has a result, and
`intersection`, the cases in which every model has one.
"""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edittools.bench import agreement, statistics, table
from edittools.bench.study import DESIGNS, Design
from edittools.errors import EditError
from edittools.rounding import rounded

Ratings = dict[tuple[int, str], dict[str, float]]
"""(case, model) -> rater -> value, of one dimension."""


def score_study(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """The result of a study, from its key and one answers file per rater. `seed` is the intervals'.

    Raises EditError for answers of another study, a rater who comes twice, or answers that the design has not.
    """
    if not {"study", "models", "cases", "dropped"} <= key.keys() or key.get("design") not in DESIGNS:
        raise EditError("no key of a study: it names no known design, models and cases")
    asked = DESIGNS[key["design"]]
    if not answers:
        raise EditError("no answers to score")
    ratings: dict[str, Ratings] = {dimension.name: defaultdict(dict) for dimension in asked.dimensions}
    positions: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in ratings}
    raters: dict[str, dict[str, int]] = {}
    for given in answers:
        rater = str(given.get("rater"))
        if given.get("study") != key["study"]:
            raise EditError(f"answers of {rater}: of another study ({given.get('study')}, not {key['study']})")
        if rater in raters:
            raise EditError(f"rater {rater} comes twice", hint="give one file per rater, the last one exported")
        raters[rater] = _collect(given, rater, key["cases"], asked, ratings, positions)

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
                    "agreement": _agreement(rated, list(raters), asked),
                    # The order is random, so these would be equal if a result's place did not matter.
                    "by_position": [statistics.mean(positions[name][place]) for place in sorted(positions[name])],
                }
                for name, rated in ratings.items()
            },
        }
    )


def _collect(
    given: Mapping[str, Any],
    rater: str,
    cases: list[dict[str, Any]],
    asked: Design,
    ratings: dict[str, Ratings],
    positions: dict[str, dict[int, list[float]]],
) -> dict[str, int]:
    """Adds a rater's complete cases to the ratings; how many cases were complete and incomplete."""
    counts = {"complete": 0, "incomplete": 0}
    numbers = set(map(str, range(len(cases))))
    for number, answer in _table(given.get("answers"), rater).items():
        if number not in numbers:
            raise EditError(f"answers of {rater}: there is no case {number}")
        letters = cases[int(number)]["results"]
        answer = _table(answer, rater)
        levels = {letter: _table(one, rater) for letter, one in _table(answer.get("given"), rater).items()}
        values = _values(levels, letters, asked, f"answers of {rater}, case {number}")
        if values is None:
            counts["incomplete"] += 1
            continue
        counts["complete"] += 1
        shown = answer.get("shown") or []
        if not isinstance(shown, list):
            raise EditError(f"answers of {rater}: not as the page writes them")
        for (letter, dimension), value in values.items():
            ratings[dimension][int(number), letters[letter]][rater] = value
            if letter in shown:
                positions[dimension][shown.index(letter)].append(value)
    return counts


def _table(value: Any, rater: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EditError(f"answers of {rater}: not as the page writes them")
    return value


def _values(
    given: Mapping[str, Mapping[str, Any]], letters: Mapping[str, str], asked: Design, where: str
) -> dict[tuple[str, str], float] | None:
    """(letter, dimension) -> value; None if something is not answered yet."""
    names = {dimension.name for dimension in asked.dimensions}
    values: dict[tuple[str, str], float] = {}
    for letter, levels in given.items():
        for dimension, level in levels.items():
            known = letter in letters and dimension in names
            if not known or type(level) is not int or not 1 <= level <= len(asked.values):
                raise EditError(f"{where}: result {letter}, {dimension}: {level} is no answer to this design")
            values[letter, dimension] = asked.values[level - 1]
    if asked.picks:
        if len(values) > asked.picks:
            raise EditError(f"{where}: {len(values)} picks of {asked.picks}")
        if len(values) < asked.picks:
            return None
        return {(letter, name): values.get((letter, name), 0.0) for letter in letters for name in names}
    return values if len(values) == len(letters) * len(names) else None


def _means(rated: Ratings, key: Mapping[str, Any], asked: Design, intersection: bool, seed: int) -> dict[str, Any]:
    """model -> mean over tasks, its 95% interval, and the tasks."""
    cases = key["cases"]
    found: dict[str, dict[str, list[float]]] = {model: defaultdict(list) for model in key["models"]}
    for (case, model), by_rater in sorted(rated.items()):
        if not intersection or len(cases[case]["results"]) == len(key["models"]):
            found[model][cases[case]["task"]].append(float(np.mean(list(by_rater.values()))))
    scale = (min(asked.values), max(asked.values))
    return {model: _entry(tasks, scale, seed) for model, tasks in found.items()}


def _entry(tasks: Mapping[str, list[float]], scale: tuple[float, float], seed: int) -> dict[str, Any]:
    cases = sum(map(len, tasks.values()))
    interval = None
    if tasks:
        samples = [
            statistics.Sample(np.array(values)[:, None], [seed, zlib.crc32(task.encode("utf-8", "replace"))])
            for task, values in tasks.items()
        ]
        limits = statistics.bounded_limits(samples, [1] * len(samples), [scale], seed)[0]
        interval = statistics.interval(limits, cases)
    return {
        "mean": statistics.mean(statistics.mean(values) for values in tasks.values()),
        "interval": interval,
        "cases": cases,
        "tasks": {task: {"mean": statistics.mean(tasks[task]), "cases": len(tasks[task])} for task in sorted(tasks)},
    }


def _agreement(rated: Ratings, raters: list[str], asked: Design) -> dict[str, Any]:
    """Krippendorff's alpha; share within one level and rank correlation, each the mean over pairs of raters."""
    table = [[by_rater.get(rater) for _, by_rater in sorted(rated.items())] for rater in raters]
    entry: dict[str, Any] = {"alpha": agreement.krippendorff_alpha(table, asked.measure), "measure": asked.measure}
    if len(asked.values) > 2:
        pairs = list(itertools.combinations(table, 2))
        step = asked.values[1] - asked.values[0]
        entry["within_one"] = statistics.mean(agreement.share_within(a, b, step) for a, b in pairs)
        entry["spearman"] = statistics.mean(agreement.spearman(a, b) for a, b in pairs)
    return entry


def as_text(found: Mapping[str, Any], markdown: bool = False) -> str:
    """A table per dimension and set, and who rated, in GitHub's Markdown or aligned for a terminal."""
    lines: list[str] = []
    for name, entry in found["dimensions"].items():
        for which in ("full", "intersection"):
            if which == "intersection" and entry["intersection"] == entry["full"]:
                continue
            cases = "each model's cases" if which == "full" else f"{found['cases']['intersection']} cases"
            heading = f"{name}, {which} set" if entry["intersection"] != entry["full"] else name
            lines += [f"{heading} ({cases})", "", *_aligned(_rows(entry[which]), markdown), ""]
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


def _rows(models: Mapping[str, Any]) -> list[list[str]]:
    tasks = sorted({task for entry in models.values() for task in entry["tasks"]})
    rows = [["model", "mean", "95% interval", "cases", *tasks]]
    for model, entry in sorted(models.items(), key=lambda item: -(item[1]["mean"] or 0)):
        interval = entry["interval"]
        rows.append(
            [
                model,
                table.with_digits(entry["mean"], interval),
                table.bounds(interval, entry["cases"]),
                str(entry["cases"]),
                *(_number((entry["tasks"].get(task) or {}).get("mean")) for task in tasks),
            ]
        )
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _aligned(rows: list[list[str]], markdown: bool) -> list[str]:
    # Names come from data: no line break or control character reaches the terminal.
    clean = [["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows]
    if markdown:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in clean]
        return [lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]]
    widths = [max(map(len, column)) for column in zip(*clean)]
    name, *others = widths
    return ["  ".join([row[0].ljust(name), *map(str.rjust, row[1:], others)]) for row in clean]
