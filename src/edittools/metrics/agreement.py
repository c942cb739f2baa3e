"""Do raters agree with each other, or a judge with people?

Ratings are a table, one line per rater, one column per item; None or NaN where a rater did not see the item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = ("nominal", "ordinal", "interval")

Ratings = Sequence[Sequence[float | None]] | np.ndarray


def krippendorff_alpha(ratings: Ratings, level: str = "ordinal") -> float | None:
    """Krippendorff's alpha: 1 where raters always agree, 0 where no more than by chance, below 0 where less.

    1 - observed / expected disagreement over all pairs of ratings of one item, where a pair of values is as far
    apart as the level of measurement says. Any number of raters, gaps allowed; items with one rating say nothing
    about agreement and are left out. None where fewer than two ratings can be paired, or every rating is the same
    (then there is nothing that could have been disagreed about). Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011).
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: one of {', '.join(LEVELS)}")
    table = _table(ratings)
    values, codes = np.unique(table[~np.isnan(table)], return_inverse=True)
    coded = np.full(table.shape, -1)
    coded[~np.isnan(table)] = codes
    counts = np.zeros((table.shape[1], len(values)))  # how many raters gave item u the value c
    for code in range(len(values)):
        counts[:, code] = (coded == code).sum(axis=0)
    raters = counts.sum(axis=1)
    counts, raters = counts[raters >= 2], raters[raters >= 2]
    if not len(counts):
        return None
    # Coincidences: each item adds its ordered pairs of ratings, weighted 1 / (raters - 1).
    pairs = (counts[:, :, None] * counts[:, None, :]) / (raters - 1)[:, None, None]
    coincidences = pairs.sum(axis=0) - np.diag((counts / (raters - 1)[:, None]).sum(axis=0))
    marginal = coincidences.sum(axis=0)
    distance = _distances(values, marginal, level)
    expected = (np.outer(marginal, marginal) * distance).sum()
    if expected == 0:
        return None
    return float(1 - (marginal.sum() - 1) * (coincidences * distance).sum() / expected)


def cohen_kappa(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Cohen's kappa of two raters over the items that both named a category of: 1 where they always agree, 0 where as
    often as by chance. None where there is no such item, or both always name the same one. Cohen, "A Coefficient of
    Agreement for Nominal Scales" (1960).
    """
    first, second = _paired(a, b)
    if not len(first):
        return None
    categories = np.union1d(first, second)
    chance = sum((first == one).mean() * (second == one).mean() for one in categories)
    return None if chance == 1 else float(((first == second).mean() - chance) / (1 - chance))


def share_within(a: Sequence[float | None], b: Sequence[float | None], tolerance: float = 1) -> float | None:
    """Share of items whose two scores differ by at most `tolerance` (ImgEdit 4.3: one point of five)."""
    first, second = _paired(a, b)
    if not len(first):
        return None
    # Scores are sums of few decimals: 3.3 - 2.3 is a little more than 1 in binary.
    return float((np.abs(first - second) <= tolerance + 1e-9).mean())


def spearman(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank. None where one side is constant."""
    first, second = (ranks(side) for side in _paired(a, b))
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _distances(values: np.ndarray, marginal: np.ndarray, level: str) -> np.ndarray:
    """Squared difference of every two values."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        between: np.ndarray = values[:, None] - values[None, :]
        return between**2
    # Ordinal: how many ratings lie between two values, half of their own counted.
    middle = np.cumsum(marginal) - marginal / 2
    return (middle[:, None] - middle[None, :]) ** 2


def _table(ratings: Ratings) -> np.ndarray:
    table = np.array([[np.nan if value is None else value for value in line] for line in ratings], np.float64)
    return table if table.ndim == 2 else np.zeros((len(table), 0))  # no rater at all


def _paired(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """The items that both have a value for."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}")
    table = _table([a, b])
    first, second = table[:, ~np.isnan(table).any(axis=0)]
    return first, second
