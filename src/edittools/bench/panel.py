"""Several judges of the same cases by one rubric: their mean, and how far they agree.

Verga et al., "Replacing Judges with Juries: Evaluating LLM Generations with a Panel of Diverse Models" (2024).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from edittools.judge.ensemble import mean_judgement
from edittools.metrics import agreement, intervals
from edittools.suites.shared.types import JudgedRow

STEP = 1.0
"""Scores that differ by no more are called near: one point of every rubric's scale."""


def mean_row(rows: Mapping[str, JudgedRow]) -> JudgedRow:
    """What judge -> its row of a case come to: of each dimension the mean over the judges (mean_judgement)."""
    dimensions = dict.fromkeys(name for row in rows.values() for one in row.passes for name in one)
    values = {judge: row.values() for judge, row in rows.items()}
    said: dict[str, Mapping[str, Any]] = {}
    for name in dimensions:
        scores = {judge: found.get(name) for judge, found in values.items()}
        judgements = {judge: [one[name] for one in row.passes if name in one] for judge, row in rows.items()}
        said[name] = {**mean_judgement(scores, judgements), "reply": None}
    return dataclasses.replace(next(iter(rows.values())), passes=[said] if said else [], replies={}, calibrated={})


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
            "within_one": intervals.mean(agreement.share_within(a, b, STEP) for a, b in pairs),
            "spearman": intervals.mean(agreement.spearman(a, b) for a, b in pairs),
            "means": {judge: intervals.mean(column[k] for column in common) for k, judge in enumerate(scores)},
        }
    return result
