"""How often each row is drawn, and in which order batches come, so that what a run sees has the wanted shares."""

from __future__ import annotations

import numpy as np

from edittools.errors import UsageError
from edittools.train.config import Recipe
from edittools.train.rows import Row, Rows

_LOOK_AHEAD = 64  # batches among which the next one is chosen
_ROUNDS = 200  # of proportional fitting


def kind(row: Row) -> str:
    """"t2i", or an edit's number of references: "one" or "several"."""
    return ("t2i", "one")[len(row.sources)] if len(row.sources) < 2 else "several"


def row_weights(recipe: Recipe, rows: Rows) -> np.ndarray:
    """How often an epoch draws every row, on average; the mean is 1.

    The product of the weight of its task and, with `balance`, n^-power for a cluster of n rows [SPEC T13]; then origins
    and kinds are scaled to their shares, in turns until both fit (iterative proportional fitting, Deming and Stephan
    1940). Where shares exclude each other the kinds have theirs.
    """
    weights = np.array([recipe.task_weights.get(rows[k].task, 1.0) for k in range(len(rows))])
    if recipe.balance:
        numbers = categories(rows)
        weights *= np.bincount(numbers)[numbers] ** -recipe.balance_power
    parts = [part for part in (_origins(recipe, rows), _kinds(recipe, rows)) if part]
    for _ in range(_ROUNDS if len(parts) > 1 else 1):
        before = weights.copy()
        for members in parts:
            _scale(weights, members)
        if np.allclose(before, weights, rtol=1e-9):
            break
    if recipe.t2i_share >= 0:
        t2i = np.array([not rows[k].sources for k in range(len(rows))])
        for mask, share, what in ((t2i, recipe.t2i_share, "text-to-image rows"), (~t2i, 1 - recipe.t2i_share, "edits")):
            if share and not weights[mask].sum():
                raise UsageError(f"`t2i_share` asks for {what}, and the data has none")
        _scale(weights, [(t2i, recipe.t2i_share), (~t2i, 1 - recipe.t2i_share)])
    if not weights.sum():
        raise UsageError("the weights leave no row to draw", hint="`task_weights`, `origins`, `kinds`")
    return weights * len(rows) / weights.sum()


def _scale(weights: np.ndarray, members: list[tuple[np.ndarray, float]]) -> None:
    """Scale groups of rows, in place, so that each has its share of the sum; a group without weight leaves its own."""
    sums = [weights[mask].sum() for mask, _ in members]
    whole = sum(share for (_, share), found in zip(members, sums) if found)
    for (mask, share), found in zip(members, sums):
        if found:
            weights[mask] *= share / found / whole if whole else 0.0


def _origins(recipe: Recipe, rows: Rows) -> list[tuple[np.ndarray, float]]:
    """Raises UsageError for an origin that no row has, and for rows of an origin without a share."""
    if not recipe.origins:
        return []
    names = np.array([_origin(recipe, rows[k]) for k in range(len(rows))])
    if unknown := sorted(recipe.origins.keys() - {*names.tolist(), "internet", "synthetic"}):
        raise UsageError(f"`origins`: no row is of {', '.join(unknown)}")
    if unnamed := sorted(set(names.tolist()) - recipe.origins.keys()):
        raise UsageError(f"`origins` has no share for {', '.join(unnamed)} rows", hint="0 leaves them out")
    return [(names == name, share) for name, share in recipe.origins.items()]


def _origin(recipe: Recipe, row: Row) -> str:
    """What a row's provenance calls its origin, where that has a share; else whether something made it."""
    if row.origin in recipe.origins:
        return row.origin
    return "synthetic" if row.synthetic else "internet"


def _kinds(recipe: Recipe, rows: Rows) -> list[tuple[np.ndarray, float]]:
    if not recipe.kinds:
        return []
    names = np.array([kind(rows[k]) for k in range(len(rows))])
    return [(names == name, recipe.kinds.get(name, 0.0)) for name in ("t2i", "one", "several")]


def drawn(recipe: Recipe, rows: Rows, weights: np.ndarray) -> dict[str, float]:
    """The shares that origins and kinds have of what is drawn, where the recipe speaks of them."""
    found: dict[str, float] = {}
    for members, names in ((_origins(recipe, rows), recipe.origins), (_kinds(recipe, rows), ("t2i", "one", "several"))):
        found |= {name: float(weights[mask].sum() / weights.sum()) for name, (mask, _) in zip(names, members)}
    return found


def categories(rows: Rows) -> np.ndarray:
    """The number of every row's cluster, (N,) int; a row without one is a cluster of its own."""
    known: dict[object, int] = {}
    clusters = (rows[k].cluster for k in range(len(rows)))
    return np.array([known.setdefault(k if c is None else (c,), len(known)) for k, c in enumerate(clusters)], int)


class Evener:
    """Puts the batches of an epoch into an order in which clusters keep their shares from step to step: dynamic
    resampling [SPEC T13, FireRed 3.5].

    The report says no more than "a dynamic resampling strategy that ensures strict balance among data categories".
    Ours: the weights give each cluster its share of an epoch; of the next 64 batches, whose order is random, the one
    comes first that has most of what the run has had too little of so far.
    """

    def __init__(self, categories: np.ndarray, weights: np.ndarray) -> None:
        self.of = categories
        self.share = np.bincount(categories, weights) / weights.sum()
        self.lacking = np.zeros(len(self.share))  # rows, of every category

    def order(self, batches: list[np.ndarray]) -> np.ndarray:
        """Batches as row numbers, in their random order -> the order they are taken in."""
        found = [np.unique(self.of[rows], return_counts=True) for rows in batches]
        shape = len(batches), max(map(len, batches), default=0)
        clusters, counts = np.zeros(shape, int), np.zeros(shape, int)  # padded with counts of 0
        for k, (mine, times) in enumerate(found):
            clusters[k, : len(mine)], counts[k, : len(mine)] = mine, times
        held, made = np.arange(min(_LOOK_AHEAD, len(batches))), []
        for coming in range(len(held), len(batches) + len(held)):
            # the batch after which Σ (lacking - counts)² is least, for each of its rows
            near = counts[held]
            costs = (near * (near - 2 * self.lacking[clusters[held]])).sum(1) / near.sum(1)
            best = int(costs.argmin())
            number = int(held[best])
            made.append(number)
            self.lacking += self.share * len(batches[number])
            np.subtract.at(self.lacking, self.of[batches[number]], 1)
            held = np.append(np.delete(held, best), range(coming, min(coming + 1, len(batches)))).astype(int)
        return np.array(made, int)
