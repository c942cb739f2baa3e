"""Several judges of the same cases by one rubric: their mean, and how far they agree.

Verga et al., "Replacing Judges with Juries: Evaluating LLM Generations with a Panel of Diverse Models" (2024).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from edittools.bench import agreement, statistics
from edittools.bench.judged import NOT_ASKED, NOT_JUDGED, JudgedRow

STEP = 1.0
"""Scores that differ by no more are called near: one point of every rubric's scale."""


def mean_row(rows: Mapping[str, JudgedRow]) -> JudgedRow:
    """What judge -> its row of a case come to: of each dimension the mean over the judges.

    Every judge counts once, however many passes it made. Where one of them gave no score there is none: a mean over
    some of the judges would move with who is left.
    """
    dimensions = dict.fromkeys(name for row in rows.values() for one in row.passes for name in one)
    values = {judge: row.values() for judge, row in rows.items()}
    said: dict[str, Mapping[str, Any]] = {name: _mean(name, rows, values) for name in dimensions}
    return dataclasses.replace(next(iter(rows.values())), passes=[said] if said else [], replies={})


def _mean(dimension: str, rows: Mapping[str, JudgedRow], values: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    without = [judge for judge in rows if dimension not in values[judge]]
    made: dict[str, Any] = {"score": None, "state": "ok", "error": None, "reply": None}
    if not without:
        return {**made, "score": fmean(values[judge][dimension] for judge in rows)}
    said = {judge: [one[dimension] for one in rows[judge].passes if dimension in one] for judge in without}
    if len(without) == len(rows) and all(one["error"] == NOT_ASKED for found in said.values() for one in found):
        return {**made, "state": "missing", "error": NOT_ASKED}
    judge = without[0]
    first = said[judge][0] if said[judge] else {"state": "failed", "error": NOT_JUDGED}
    return {**made, "state": first["state"], "error": f"{judge}: {first['error'] or first['state']}"}


def between_judges(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Dimension -> agreement of the judges, given the scores of each by case (the same cases in the same order).

    `alpha` is Krippendorff's (ordinal) over all that anybody scored; `within_one` and `spearman` are means over the
    pairs of judges; `means` are the judges' own over the `cases` that all of them scored: who is strict.
    """
    dimensions = dict.fromkeys(name for found in scores.values() for values in found for name in values)
    result: dict[str, dict[str, Any]] = {}
    for name in dimensions:
        table = [[values.get(name) for values in found] for found in scores.values()]
        common = [column for column in zip(*table) if None not in column]
        pairs = list(itertools.combinations(table, 2))
        result[name] = {
            "cases": len(common),
            "alpha": agreement.krippendorff_alpha(table, "ordinal"),
            "within_one": statistics.mean(agreement.share_within(a, b, STEP) for a, b in pairs),
            "spearman": statistics.mean(agreement.spearman(a, b) for a, b in pairs),
            "means": {judge: statistics.mean(column[k] for column in common) for k, judge in enumerate(scores)},
        }
    return result
