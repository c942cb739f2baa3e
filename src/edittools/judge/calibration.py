"""A judge's scores on the scale of people's ratings: isotonic regression, cross-validated.

Nothing is assumed but that a higher score does not mean a worse result. Zadrozny and Elkan, "Transforming classifier
scores into accurate multiclass probability estimates" (2002).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A function that never falls: straight between its points (x rising), constant before the first and after the
    last."""

    x: np.ndarray
    y: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """NaN stays NaN."""
        return np.interp(scores, self.x, self.y)


def isotonic(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Curve:
    """The nondecreasing function of x with the least weighted squares to y, by pooling adjacent violators; equal x
    have one value. Ayer et al., "An empirical distribution function for sampling with incomplete information" (1955).
    """
    levels, place = np.unique(x, return_inverse=True)
    weight = np.bincount(place, weights)
    means = np.bincount(place, weights * y) / weight
    pools: list[tuple[float, float, int]] = []  # mean, weight, levels
    for mean, heavy in zip(means.tolist(), weight.tolist()):
        pool = (mean, heavy, 1)
        while pools and pools[-1][0] >= pool[0]:
            before = pools.pop()
            together = before[1] + pool[1]
            pool = ((before[0] * before[1] + pool[0] * pool[1]) / together, together, before[2] + pool[2])
        pools.append(pool)
    return Curve(levels, np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools]))


def folds_of(ids: Iterable[str], folds: int) -> dict[str, int]:
    """Which fold each row is in: as many in each as there can be, by the hashes of the ids, whatever their order."""
    ranked = sorted(ids, key=lambda identity: hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest())
    return {identity: rank % folds for rank, identity in enumerate(ranked)}


@dataclass(frozen=True)
class Calibration:
    """What one score becomes: by the curve of all ratings, and of a rated row by one that its fold had no part in."""

    whole: Curve
    fold: dict[str, int]  # of the rated rows
    without: list[Curve]  # of each fold, fitted to all the others

    def __call__(self, ids: list[str], scores: np.ndarray) -> np.ndarray:
        made = self.whole(scores)
        for row, identity in enumerate(ids):
            if identity in self.fold:
                made[row] = self.without[self.fold[identity]](scores[row : row + 1])[0]
        return made


def calibrate(ids: list[str], scores: np.ndarray, ratings: np.ndarray, raters: np.ndarray, folds: int) -> Calibration:
    """From rated rows: their scores, the means of their ratings, and how many people rated each.

    A mean counts as often as it has raters, which is to fit every single rating; all of a row are in one fold.
    """
    fold = folds_of(ids, folds)
    place = np.array([fold[identity] for identity in ids])
    without = []
    for number in range(folds):
        other = place != number
        without.append(isotonic(scores[other], ratings[other], raters[other]))
    return Calibration(isotonic(scores, ratings, raters), fold, without)
