"""Limits of a mean whose cases and whose raters are both drawn: every rater sees many cases, every case several raters.

Limits over cases alone speak of these raters and of nobody else; with three to ten of them that is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from edittools.metrics.intervals import NO_LIMITS, Limits, student_quantile

_SWEEPS = 30  # of the fit of rows and columns, which converges fast where raters share cases


@dataclass(frozen=True)
class Rated:
    """One rating: of which group (task) and case, by whom."""

    group: Hashable
    case: Hashable
    rater: Hashable
    value: float


def mean_of(ratings: Sequence[Rated]) -> float:
    """Mean over groups of the mean over cases of the mean over raters."""
    return float(_weights(ratings) @ np.array([one.value for one in ratings]))


def crossed_limits(ratings: Sequence[Rated]) -> Limits:
    """95% limits of mean_of(), for other cases of these groups and other raters.

    With the mean squares of the two-way layout, V_c and V_r are the variance of the mean as the scatter of cases and
    of raters shows it, each with the error V_e in it; the half-width is sqrt(t_c^2 V_c + t_r^2 max(0, V_r - V_e)), as
    modified large-sample limits add variances (Burdick and Graybill, "Confidence Intervals on Variance Components",
    1992; t_c and t_r are Student's quantiles), and never less than t_c sqrt(V_c) or t_r sqrt(V_r), which keeps it from
    falling short where three raters agree by chance (ours). Where not everybody rated every case, rows and columns are
    fitted by least squares. Infinite with one rater, or with a group of one case.
    """
    values = np.array([one.value for one in ratings])
    weights = _weights(ratings)
    groups, group = _numbers([one.group for one in ratings])
    cases, case = _numbers([(one.group, one.case) for one in ratings])
    raters, rater = _numbers([one.rater for one in ratings])
    group_of = np.zeros(cases, int)
    group_of[case] = group
    sizes = np.bincount(group_of, minlength=groups)
    if raters < 2 or not len(ratings) or sizes.min() < 2:
        return NO_LIMITS
    centre = np.bincount(group, weights * values, groups) / np.bincount(group, weights, groups)
    off = values - centre[group]
    of_cases = np.bincount(case, weights * off, cases)
    of_raters = np.bincount(rater, weights * off, raters)
    by_case = float((of_cases**2 * (sizes / (sizes - 1))[group_of]).sum())
    by_rater = raters / (raters - 1) * float((of_raters**2).sum())
    by_chance = _error(values, case, rater) * float((weights**2).sum())
    t_case, t_rater = student_quantile(cases - groups), student_quantile(raters - 1)
    both = t_case**2 * by_case + t_rater**2 * max(0.0, by_rater - by_chance)
    half = math.sqrt(max(both, t_rater**2 * by_rater))
    middle = float(weights @ values)
    return (middle - half, middle + half)


def _error(values: np.ndarray, case: np.ndarray, rater: np.ndarray) -> float:
    """Mean square of what case and rater do not explain; 0 where nothing is left to tell it by."""
    freedom = len(values) - case.max() - rater.max() - 1
    if freedom < 1:
        return 0.0
    rest = values.astype(np.float64)
    for _ in range(_SWEEPS):
        for numbers in (case, rater):
            rest = rest - (np.bincount(numbers, rest) / np.bincount(numbers))[numbers]
    return float((rest**2).sum() / freedom)


def _weights(ratings: Sequence[Rated]) -> np.ndarray:
    """What each rating counts: 1 / (groups, cases of its group, ratings of its case)."""
    groups, group = _numbers([one.group for one in ratings])
    _, case = _numbers([(one.group, one.case) for one in ratings])
    each = np.bincount(case)[case]
    cases = np.bincount(group, 1 / each)  # every case counts once
    return np.asarray(1 / (groups * cases[group] * each))


def _numbers(names: Sequence[Hashable]) -> tuple[int, np.ndarray]:
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return len(order), np.array([order[name] for name in names], int)
