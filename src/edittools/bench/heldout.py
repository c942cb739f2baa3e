"""Held-out rows with ground truth -> the numbers of a report (report.json).

A row is a dict with `id`, `task`, `provenance` and `scores`: the scores as judges.judge_result stored them,
and `shuffled_psnr` where the model was also run with another row's instruction (a model that ignores what it
is told scores the same there). A row's kind is the template that made it, or its task. Nothing is computed
from pixels here.

Two means are given because they answer different questions: `mean` is over kinds (each weighs the same,
however many rows it has), `mean_rows` over rows. `mean_without_invert` leaves out the colour negative: its
source is so far from the truth (about 4 dB) that almost any answer gains 10 dB, which lifts the mean.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from edittools.metrics import intervals
from edittools.rounding import rounded
from edittools.suites.shared.scores import MUCH

PAIRS = {name: name for name in ("ssim", "l1", "clip", "dino")} | {"inside": "psnr_inside", "outside": "psnr_outside"}
"""Further entries {"edit", "copy", "edit_interval", "copy_interval", "n"} and the score each is the mean of; n is how
many rows have it."""

Row = Mapping[str, Any]
Scores = Mapping[str, Any]
Counts = Mapping[str, int] | int


def kind_of(row: Row) -> str:
    return row.get("template") or (row.get("provenance") or {}).get("template") or row["task"]


def summarize(
    rows: Iterable[Row],
    *,
    expected: Counts | None = None,
    failed: Counts = 0,
    dataset: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary that `report.json` holds and every printing of the report starts from.

    `expected` and `failed` (rows asked for, rows rejected on the way) are counts by kind, or one total where
    the kinds are unknown; per kind they are then null. Without `expected`, it is what came plus what failed.
    Kinds of which no row was judged are in no table and no mean; `unjudged` names them.
    `dataset` is DatasetStatistics.result(). Raises ValueError if no row was judged.
    """
    kinds: dict[str, list[Scores]] = defaultdict(list)
    tasks: dict[str, list[Scores]] = defaultdict(list)
    generated: dict[str, int] = defaultdict(int)
    for row in rows:
        kind = kind_of(row)
        generated[kind] += 1
        scores = row.get("scores") or {}
        if _score(scores, "psnr") is not None and _score(scores, "copy_psnr") is not None:
            kinds[kind].append(scores)
            tasks[row["task"]].append(scores)
    if not kinds:
        raise ValueError("no row has the scores `psnr` and `copy_psnr` of a result against its truth")

    names = sorted(kinds)
    by_kind = {name: _entry(kinds[name]) for name in names}
    limits = {name: _limits(kinds[name]) for name in names}
    for name, entry in by_kind.items():
        entry["failed"] = failed.get(name, 0) if isinstance(failed, Mapping) else None
        entry["missing"] = _missing(expected, failed, generated, name)
    every_row = [row for name in names for row in kinds[name]]
    without = [name for name in names if name != "invert"]
    gains = [row["psnr"] - row["copy_psnr"] for row in every_row]
    wanted = {*generated, *(expected if isinstance(expected, Mapping) else ())}
    coverage = _coverage(expected, failed, sum(generated.values()), len(every_row))
    return {
        "kinds": by_kind,
        "tasks": {name: _entry(tasks[name]) for name in sorted(tasks)},
        "mean": _mean_of_kinds(names, by_kind, limits),
        "mean_rows": _entry(every_row),
        "mean_without_invert": _mean_of_kinds(without, by_kind, limits) if without else None,
        "gain_histogram": histogram(gains),
        "unjudged": sorted(wanted - kinds.keys()),
        "coverage": coverage,
        "warnings": _warnings(coverage),
        "dataset": dataset,
    }


def histogram(values: list[float]) -> dict[str, list[float]]:
    """{"edges", "counts"}: at most 40 bins, 1, 2 or 5 times a power of ten wide, none across 0."""
    low, high = min(values), max(values)
    rough = max((high - low) / 38, 0.1)  # gains in dB: finer than 0.1 says nothing
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    edges = [rounded(step * width) for step in range(first, last + 1)]
    counts, _ = np.histogram(np.array(values) / width, bins=np.arange(first, last + 1))
    return {"edges": edges, "counts": counts.tolist()}


def _entry(rows: list[Scores]) -> dict[str, Any]:
    """Entry of the report for a group of judged rows."""
    entry: dict[str, Any] = {"n": len(rows), **{name: intervals.mean(value(row) for row in rows)
                                                for name, value in _MAIN.items()}}  # fmt: skip
    for name, score in PAIRS.items():
        present = [row for row in rows if _score(row, score) is not None]
        entry[name] = {
            "edit": intervals.mean(_score(row, score) for row in present),
            "copy": intervals.mean(_score(row, "copy_" + score) for row in present),
            "n": len(present),
        }
    return _finish(entry, _limits(rows))


def _mean_of_kinds(names: list[str], entries: dict[str, dict[str, Any]], limits: dict[str, _Limits]) -> dict[str, Any]:
    """The same entry, each value the mean over the kinds that have it."""
    chosen = [entries[name] for name in names]
    entry: dict[str, Any] = {"n": sum(item["n"] for item in chosen)}
    for name in _MAIN:
        entry[name] = intervals.mean(item[name] for item in chosen)
    for name in PAIRS:
        means = {side: intervals.mean(item[name][side] for item in chosen) for side in ("edit", "copy")}
        entry[name] = {**means, "n": sum(item[name]["n"] for item in chosen)}
    found: _Limits = {}
    for key in dict.fromkeys(key for name in names for key in limits[name]):
        every = [limits[name][key] for name in names if key in limits[name]]
        found[key] = intervals.combined([bounds for bounds, _ in every]), sum(count for _, count in every)
    return _finish(entry, found)


_MAIN: dict[str, Callable[[Scores], float | None]] = {
    "edit": lambda row: row["psnr"],
    "copy": lambda row: row["copy_psnr"],
    "gain": lambda row: row["psnr"] - row["copy_psnr"],
    "shuffled": lambda row: _score(row, "shuffled_psnr"),
}

_Limits = dict[tuple[str, str], tuple[intervals.Limits, int]]
"""Of the means of a group, those that any row has, with how many have it: (entry, "") of _MAIN's, (entry, side) of
PAIRS'."""


def _limits(rows: list[Scores]) -> _Limits:
    measures = {(name, ""): value for name, value in _MAIN.items()}
    for name, score in PAIRS.items():
        for side, column in (("edit", score), ("copy", "copy_" + score)):
            measures[name, side] = functools.partial(_score, name=column)
    found = {}
    for key, value in measures.items():
        values = [number for row in rows if (number := value(row)) is not None]
        if values:
            found[key] = intervals.student_limits(np.array(values, np.float64)), len(values)
    return found


def _finish(entry: dict[str, Any], limits: _Limits) -> dict[str, Any]:
    """Adds the 95% intervals (null for too few rows) and the verdict they allow."""
    none = (intervals.NO_LIMITS, 0)
    for name in _MAIN:
        known = intervals.interval(*limits.get((name, ""), none))
        entry["interval" if name == "edit" else f"{name}_interval"] = known
    for name in PAIRS:
        for side in ("edit", "copy"):
            entry[name][f"{side}_interval"] = intervals.interval(*limits.get((name, side), none))
    low, high = entry["gain_interval"] or intervals.NO_LIMITS
    entry["verdict"] = "better" if low > 0 else "worse" if high < 0 else "unclear"
    return rounded(entry)


def _score(scores: Scores, name: str) -> float | None:
    value = scores.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _missing(expected: Counts | None, failed: Counts, generated: Mapping[str, int], kind: str) -> int | None:
    if not isinstance(expected, Mapping) or not isinstance(failed, Mapping):
        return None
    return max(0, expected.get(kind, 0) - generated.get(kind, 0) - failed.get(kind, 0))


def _coverage(expected: Counts | None, failed: Counts, generated: int, judged: int) -> dict[str, int]:
    rejected = _total(failed)
    wanted = generated + rejected if expected is None else _total(expected)
    return {
        "expected": wanted,
        "generated": generated,
        "judged": judged,
        "failed": rejected,
        "missing": max(0, wanted - generated - rejected),
    }


def _warnings(coverage: Mapping[str, int]) -> list[str]:
    lost, wanted = coverage["expected"] - coverage["judged"], coverage["expected"]
    if lost < MUCH * wanted:
        return []
    return [f"{lost / wanted:.0%} of the rows have no score ({lost} of {wanted}): the means speak of the others only"]


def _total(counts: Counts) -> int:
    return sum(counts.values()) if isinstance(counts, Mapping) else counts
