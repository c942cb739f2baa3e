"""How often each row is drawn, and in which order batches come, so that what a run sees has the wanted shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from edittools.errors import UsageError
from edittools.train.config import Recipe
from edittools.train.rows import Rows, TrainRow, facts, image_sizes

_LOOK_AHEAD = 64  # batches among which the next one is chosen
_ROUNDS = 200  # of proportional fitting
KINDS = ("t2i", "one", "several")
_Members = dict[str, tuple[np.ndarray, float]]
"""Which rows are of what is named, (N,) bool, and the share that it shall have of what is drawn."""


def kind(row: TrainRow) -> str:
    """ "t2i", or an edit's number of references: "one" or "several"."""
    return KINDS[min(len(row.sources), 2)]


def row_weights(recipe: Recipe, rows: Rows) -> np.ndarray:
    """How often an epoch draws every row, on average; the mean is 1.

    The product of the weight of its task and, with `balance`, n^-power for a cluster of n rows (FireRed 3.4); then
    origins and kinds are scaled to their shares, in turns until both fit (iterative proportional fitting, Deming and
    Stephan 1940). Raises UsageError for shares that no weights of these rows have.
    """
    tasks = (recipe.task_weights.get(task, 1.0) for (task,) in facts(rows, "task"))
    weights = np.fromiter(tasks, float, len(rows)) if recipe.task_weights else np.ones(len(rows))
    if recipe.balance:
        numbers = categories(rows)
        weights *= np.bincount(numbers)[numbers] ** -recipe.balance_power
    origins, kinds = _origins(recipe, rows), _kinds(recipe, rows, weights)
    if origins and kinds:
        _check_shares(weights, origins, kinds)
    parts = [part for part in (origins, kinds) if part]
    for _ in range(_ROUNDS if len(parts) > 1 else 1):
        before = weights.copy()
        for members in parts:
            _scale(weights, members)
        if np.allclose(before, weights, rtol=1e-9):
            break
    if not weights.sum():
        raise UsageError("the weights leave no row to draw", hint="`task_weights`, `origins`, `kinds`")
    return weights * len(rows) / weights.sum()


def _check_shares(weights: np.ndarray, origins: _Members, kinds: _Members) -> None:
    """Raises UsageError where kinds want more than the origins have that any row of theirs is from.

    So many as there are of them, this is the max-flow min-cut theorem: no weights have both shares exactly where some
    kinds' shares are more than those of the origins that they meet.
    """
    there = {name: (mask & (weights > 0), share) for name, (mask, share) in origins.items()}
    there = {name: (mask, share) for name, (mask, share) in there.items() if mask.any()}
    wanted = {name: (mask, share) for name, (mask, share) in kinds.items() if weights[mask].any() and share}
    total, whole = sum(share for _, share in there.values()), sum(share for _, share in wanted.values())
    for count in range(1, len(wanted) + 1) if total and whole else ():
        for names in itertools.combinations(wanted, count):
            of = np.logical_or.reduce([wanted[name][0] for name in names])
            met = [name for name, (mask, _) in there.items() if (mask & of).any()]
            share = sum(wanted[name][1] for name in names) / whole
            room = sum(there[name][1] for name in met) / total
            if share > room + 1e-9:
                raise UsageError(
                    f"shares that exclude each other: {share:.0%} of what is drawn shall be {' or '.join(names)} rows, "
                    f"and all of those are {' or '.join(met)}, which shall be {room:.0%}",
                    hint="`origins`, and `kinds` or `t2i_share`",
                )


def _scale(weights: np.ndarray, members: _Members) -> None:
    """Scale groups of rows, in place, so that each has its share of the sum; a group without weight leaves its own."""
    sums = [weights[mask].sum() for mask, _ in members.values()]
    whole = sum(share for (_, share), found in zip(members.values(), sums) if found)
    for (mask, share), found in zip(members.values(), sums):
        if found:
            weights[mask] *= share / found / whole if whole else 0.0


def _origins(recipe: Recipe, rows: Rows) -> _Members:
    """Raises UsageError for an origin that no row has, and for rows of an origin without a share."""
    if not recipe.origins:
        return {}
    known: dict[str, int] = {}
    named = (_origin(recipe, *each) for each in facts(rows, "origin", "synthetic"))
    numbers = np.fromiter((known.setdefault(name, len(known)) for name in named), np.int32, len(rows))
    if unknown := sorted(recipe.origins.keys() - {*known, "internet", "synthetic"}):
        raise UsageError(f"`origins`: no row is of {', '.join(unknown)}")
    if unnamed := sorted(known.keys() - recipe.origins.keys()):
        raise UsageError(f"`origins` has no share for {', '.join(unnamed)} rows", hint="0 leaves them out")
    return {name: (numbers == known.get(name, -1), share) for name, share in recipe.origins.items()}


def _origin(recipe: Recipe, origin: str, synthetic: bool) -> str:
    """What a row's provenance calls its origin, where that has a share; else whether something made it."""
    if origin in recipe.origins:
        return origin
    return "synthetic" if synthetic else "internet"


def _kinds(recipe: Recipe, rows: Rows, weights: np.ndarray) -> _Members:
    """Raises UsageError where `t2i_share` asks for rows that are not there."""
    if not recipe.kinds and recipe.t2i_share < 0:
        return {}
    references = np.minimum(np.diff(image_sizes(rows)[1]) - 1, 2)
    if recipe.kinds:
        return {name: (references == k, recipe.kinds.get(name, 0.0)) for k, name in enumerate(KINDS)}
    t2i = references == 0
    found = {"text-to-image": (t2i, recipe.t2i_share), "edit": (~t2i, 1 - recipe.t2i_share)}
    for name, (mask, share) in found.items():
        if share and not weights[mask].sum():
            raise UsageError(f"`t2i_share` asks for {name} rows, and the data has none")
    return found


def drawn(recipe: Recipe, rows: Rows, weights: np.ndarray) -> dict[str, float]:
    """The shares that origins and kinds have of what is drawn, where the recipe speaks of them."""
    members = _origins(recipe, rows) | _kinds(recipe, rows, weights)
    return {name: float(weights[mask].sum() / weights.sum()) for name, (mask, _) in members.items()}


def categories(rows: Rows) -> np.ndarray:
    """The number of every row's cluster, (N,) int; a row without one is a cluster of its own."""
    numbers = _numbered(cluster for (cluster,) in facts(rows, "cluster"))
    return np.fromiter(numbers, int, len(rows))


def _numbered(clusters: Iterable[str | None]) -> Iterator[int]:
    known: dict[str, int] = {}
    alone = 0  # rows without one so far
    for cluster in clusters:
        if cluster is None:
            yield len(known) + alone
            alone += 1
        else:
            if cluster not in known:
                known[cluster] = len(known) + alone
            yield known[cluster]


class Evener:
    """Puts the batches of an epoch into an order in which clusters keep their shares from step to step: dynamic
    resampling (FireRed 3.5).

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
