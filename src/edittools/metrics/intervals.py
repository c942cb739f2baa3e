"""Means and their uncertainty.

Groups of cases that were drawn by themselves (a benchmark's tasks) are samples; the limits of a weighted mean of their
means are made of all of them: `bounded_limits` of scores on a scale, `student_limits` of values without one. What is
shown is `interval`: nothing below MIN_CASES.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

MIN_CASES = 5
"""Below this an interval would span most of the scale: none is given, and TOO_FEW says so."""
TOO_FEW = "too few cases"

RESAMPLES = 10_000
BLOCK = 1 << 21
"""Random numbers held at a time: 16 MiB, whatever the number of rows."""

Limits = tuple[float, float]
NO_LIMITS: Limits = (-math.inf, math.inf)
"""Limits of the mean of a single case, which says nothing of others."""


def mean(values: Iterable[float | None]) -> float | None:
    """Arithmetic mean of the values that are there; None if none is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


class BootstrapSample:
    """The cases of one group: values (cases, columns), their means, and 10,000 means under weights that are uniform
    on the simplex (Rubin, "The Bayesian bootstrap", 1981). Columns share the weights, so their differences are paired.
    Deterministic for a seed; about 1 s for 10,000 cases.
    """

    def __init__(self, values: np.ndarray, seed: int | list[int]) -> None:
        self.n, self.means = len(values), values.mean(axis=0)
        self.drawn = np.empty((RESAMPLES, values.shape[1]))
        generator = _generator(seed)
        step = max(1, BLOCK // self.n)
        for start in range(0, RESAMPLES, step):
            stop = min(start + step, RESAMPLES)
            weights = generator.standard_exponential((stop - start, self.n))
            self.drawn[start:stop] = (weights / weights.sum(axis=1, keepdims=True)) @ values


def bounded_limits(
    samples: Sequence[BootstrapSample], weights: Sequence[float], scales: Sequence[tuple[float, float]], seed: int
) -> list[Limits]:
    """95% limits of the weighted mean of the samples' means, of each column, whose scales are [(lowest, highest)].

    Of one sample they are Gaffke's bounds: the upper one is the 97.5% quantile of the drawn means with one more case
    at the scale's highest value, the lower one likewise with the lowest. On two values these are Clopper and Pearson's,
    on many cases a bootstrap's, and they hold their 95% on any scores within the scale, also where every one of the
    few that were seen is the same. Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean
    of a nonnegative variable" (2005); Learned-Miller and Thomas, "A new confidence interval for the mean of a bounded
    random variable" (2020).

    Of several, each keeps its weight, and the one more case weighs as much as the heaviest of all. It cannot make up
    for every sample's scatter, which the draws understate by (n - 1) / (n + 1): there it is set right (ours).
    """
    low, high = np.array(scales, np.float64).T
    if any(sample.n < 2 for sample in samples):
        return [NO_LIMITS] * len(low)
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    middle = sum(share * sample.means for share, sample in zip(shares, samples))
    drawn = np.zeros_like(samples[0].drawn)
    for share, sample in zip(shares, samples):
        scatter = math.sqrt((sample.n + 1) / (sample.n - 1)) if len(samples) > 1 else 1.0
        drawn += share * np.clip(sample.means + scatter * (sample.drawn - sample.means), low, high)
    heaviest = max(share / sample.n for share, sample in zip(shares, samples))
    further = _generator([seed, len(samples)]).beta(1, 1 / heaviest, (RESAMPLES, 1))
    lows = np.quantile(drawn + further * (low - drawn), 0.025, axis=0)
    highs = np.quantile(drawn + further * (high - drawn), 0.975, axis=0)
    # Rounding may carry a mean of equal values past them.
    ends = zip(np.clip(lows, low, middle), np.clip(highs, middle, high))
    return [(float(lower), float(upper)) for lower, upper in ends]


def proportion_limits(hits: int, cases: int) -> Limits:
    """95% limits of a share of yes and no. Wilson, "Probable inference, the law of succession, and statistical
    inference" (1927)."""
    if cases < 1:
        return NO_LIMITS
    z2 = 1.959963984540054**2
    share, wide = hits / cases, z2 / cases
    half = math.sqrt(wide * share * (1 - share) + wide * wide / 4)
    low, high = ((share + wide / 2 + sign * half) / (1 + wide) for sign in (-1, 1))
    return (0.0 if hits == 0 else low, 1.0 if hits == cases else high)


def student_limits(values: np.ndarray) -> Limits:
    """95% limits of the mean of values without a scale (decibels), by Student's t."""
    count = len(values)
    if count < 2:
        return NO_LIMITS
    half = student_half(float(values.std(ddof=1)), count)
    return (float(values.mean()) - half, float(values.mean()) + half)


def student_half(deviation: float, count: int) -> float:
    """Half the width of student_limits() of at least two values with this deviation."""
    return student_quantile(count - 1) * deviation / math.sqrt(count)


def combined(limits: Sequence[Limits]) -> Limits:
    """Limits of the mean of independent groups' means, out of Student's limits of each: their halves add up as
    squares do. Zou and Donner, "Construction of confidence limits about effect measures" (2008)."""
    ends = np.asarray(limits, np.float64)
    if not np.isfinite(ends).all():
        return NO_LIMITS
    middle, half = ends.mean(axis=1).mean(), math.sqrt(float(np.sum(np.ptp(ends, axis=1) ** 2))) / 2 / len(ends)
    return (float(middle) - half, float(middle) + half)


def interval(limits: Limits, cases: int) -> list[float] | None:
    """[low, high] as a report holds it; None below MIN_CASES, and where a group has one case only.

    It speaks of other cases like these. Cases that share a photograph are not independent: with such the doubt is
    larger.
    """
    return list(limits) if cases >= MIN_CASES and all(map(math.isfinite, limits)) else None


def decimals(bounds: Sequence[float] | None, most: int = 3) -> int:
    """How many decimals of a mean its interval allows: up to the first digit of half its width; one without any."""
    if bounds is None:
        return 1
    half = (bounds[1] - bounds[0]) / 2
    return most if half <= 0 else min(most, max(0, -math.floor(math.log10(half))))


def _generator(seed: int | list[int]) -> np.random.Generator:
    parts = seed if isinstance(seed, list) else [seed]
    return np.random.default_rng([part % 2**64 for part in parts])  # which takes no negative ones


# Student's t, two-sided 95%, by degrees of freedom from 1.
_T95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip


def student_quantile(freedom: int) -> float:
    """Beyond the table by its expansion in the normal quantile (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = 1.959963985
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(float(term / freedom**power) for power, term in enumerate(terms, 1))
