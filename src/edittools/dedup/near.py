"""When two images are near: equal digests, few different bits, or a large cosine. And pairs of near rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Protocol

import numpy as np

from edittools.dedup.cosine import cosine, near_cosine
from edittools.dedup.hamming import distance, near_pairs
from edittools.dedup.signature import ORIENTATIONS

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]
_PAIRS_AT_ONCE = 1 << 18
_SMALL = 32  # in groups of so many rows all pairs are compared


class Near(Protocol):
    """One image of every row, as a signature; `valid` says which rows have it."""

    valid: np.ndarray

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """uint64, equal where the signatures are."""

    def pairs(self, rows: np.ndarray) -> Blocks:
        """Every near pair among valid rows, each way round and as often as it likes."""

    def near(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether the signatures of a[k] and b[k] are near."""

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How far they are from each other, float64: in bits, or 1 - the score."""


class Equal:
    """Digests: near is equal."""

    def __init__(self, words: np.ndarray, valid: np.ndarray) -> None:
        self.words, self.valid = words[:, 0], valid

    def keys(self, rows: np.ndarray) -> np.ndarray:
        return self.words[rows]

    def pairs(self, rows: np.ndarray) -> Blocks:
        values, groups = _grouped(self.words[rows])
        same = np.arange(len(values))
        for a, b in groups.expand(same, same, groups):
            yield rows[a], rows[b]

    def near(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.words[a] == self.words[b]

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(self.near(a, b), 0.0, np.nan)


class Hamming:
    """Perceptual signatures: near is at most `limit` different bits. `words` may hold eight orientations."""

    def __init__(self, words: np.ndarray, valid: np.ndarray, limit: int, jobs: int) -> None:
        self.words, self.valid, self.limit, self.jobs = words, valid, limit, jobs

    def keys(self, rows: np.ndarray) -> np.ndarray:
        return self.words[rows, 0]

    def pairs(self, rows: np.ndarray) -> Blocks:
        values, groups = _grouped(self.words[rows, 0])
        same = np.arange(len(values))
        for i, j in chain([(same, same)], near_pairs(values, self.limit, jobs=self.jobs)):
            for a, b in groups.expand(i, j, groups):
                yield rows[a], rows[b]

    def near(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return distance(self.words[a, 0], self.words[b, 0]) <= self.limit

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return distance(self.words[a, 0], self.words[b, 0]).astype(np.float64)

    def turned_distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The least distance of any orientation of a[k] to b[k]."""
        return distance(self.words[a], self.words[b][:, :1]).min(axis=1).astype(np.float64)

    def links(self, rows: np.ndarray, rotations: bool, fresh: np.ndarray) -> Blocks:
        """Pairs enough for the components of rows of one image; without those of two rows that are not fresh."""
        new, old = rows[fresh[rows]], rows[~fresh[rows]]
        mine, theirs = _Values(self.words[:, 0], new), _Values(self.words[:, 0], old)
        for side in (mine, theirs):
            yield side.representatives[side.inverse], side.rows  # equal signatures
        for i, j in near_pairs(mine.values, self.limit, jobs=self.jobs):
            yield mine.representatives[i], mine.representatives[j]
        for i, j in near_pairs(theirs.values, self.limit, queries=mine.values, jobs=self.jobs):
            yield mine.representatives[i], theirs.representatives[j]
        for orientation in range(1, ORIENTATIONS if rotations else 1):
            for queries, found in ((mine, mine), (mine, theirs), (theirs, mine)) if len(old) else ((mine, mine),):
                turned, groups = _grouped(self.words[queries.rows, orientation])
                for i, j in near_pairs(found.values, self.limit, queries=turned, jobs=self.jobs):
                    for a, b in groups.expand(i, j, None):
                        yield queries.rows[a], found.representatives[b]


class Cosine:
    """A model's vectors: near is a score of at least `limit`.

    The score of two is their cosine; with `offsets` (a number per row, SSCD's equation 8) less the mean of their two.
    SSCD takes the query's offset alone. Among the images of one set none is the query: the mean is the same either
    way round.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        valid: np.ndarray,
        limit: float,
        jobs: int,
        fresh: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> None:
        self.vectors, self.valid, self.limit, self.jobs, self.fresh = vectors, valid, limit, jobs, fresh
        self.offsets = offsets

    def keys(self, rows: np.ndarray) -> np.ndarray:
        factors = np.random.default_rng(0).integers(0, 1 << 63, self.vectors.shape[1], dtype=np.uint64) * 2 + 1
        made = np.empty(len(rows), np.uint64)
        for start in range(0, len(rows), 4096):
            halves = np.ascontiguousarray(self.vectors[rows[start : start + 4096]]).view(np.uint16)
            made[start : start + 4096] = (halves * factors).sum(axis=1, dtype=np.uint64)
        if self.offsets is not None:
            # A normalised score may be below the limit even of equal vectors: such a row stands for no other.
            alone = ~self.near(rows, rows)
            made[alone] = rows[alone].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return made

    def pairs(self, rows: np.ndarray) -> Blocks:
        if self.offsets is None or not len(rows):
            yield from near_cosine(self.vectors, rows, self.limit, jobs=self.jobs, fresh=self.fresh)
            return
        # No pair loses less than the least offset; a digit more, for what rounding may cost.
        least = self.limit + float(self.offsets[rows].min()) - 1e-5
        for a, b in near_cosine(self.vectors, rows, least, jobs=self.jobs, fresh=self.fresh):
            near = self.near(a, b)
            if near.any():
                yield a[near], b[near]

    def score(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine (less its offsets) of each pair a[k], b[k], float64 rounded to 6 digits."""
        found = cosine(self.vectors, a, b)
        return found if self.offsets is None else np.round(found - (self.offsets[a] + self.offsets[b]) / 2, 6)

    def near(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.score(a, b) >= self.limit

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.round(1 - self.score(a, b), 6)


def near_rows(rows: np.ndarray, groups: np.ndarray, first: Near, second: Near | None, fresh: np.ndarray) -> Blocks:
    """Pairs enough for the components of rows of one group (a number per row) that are near in all that is given.

    Rows that are equal in everything count once, and a group is compared by itself: a thousand edits of one image
    by different instructions are a thousand groups. Groups without a fresh row are left out.
    """
    keep = first.valid[rows] if second is None else first.valid[rows] & second.valid[rows]
    rows = rows[keep]
    keys = [first.keys(rows), groups[rows]] if second is None else [second.keys(rows), first.keys(rows), groups[rows]]
    order = np.lexsort(keys)
    rows, keys = rows[order], [key[order] for key in keys]
    if not len(rows):
        return
    starts = np.flatnonzero(np.r_[True, np.any([key[1:] != key[:-1] for key in keys], axis=0)])
    representatives = rows[starts]
    yield np.repeat(representatives, np.diff(np.r_[starts, len(rows)])), rows
    whole = keys[-1][starts]
    bounds = np.flatnonzero(np.r_[True, whole[1:] != whole[:-1], True])
    sizes = np.diff(bounds)
    new = np.zeros(len(whole), bool)
    new[np.searchsorted(starts, np.flatnonzero(fresh[rows]), "right") - 1] = True
    wanted = (np.add.reduceat(new, bounds[:-1], dtype=np.int64) > 0) & (sizes > 1)
    for a, b in _all_pairs(bounds[:-1], sizes, wanted & (sizes <= _SMALL)):
        a, b = representatives[a], representatives[b]
        near = first.near(a, b)
        if second is not None:
            near[near] = second.near(a[near], b[near])
        if near.any():
            yield a[near], b[near]
    for group in np.flatnonzero(wanted & (sizes > _SMALL)):
        members = representatives[bounds[group] : bounds[group + 1]]
        # The image that tells more rows apart leaves fewer candidates.
        lead, other = first, second
        if second is not None and _distinct(second, members) > _distinct(first, members):
            lead, other = second, first
        for a, b in lead.pairs(members):
            if other is not None:
                near = other.near(a, b)
                a, b = a[near], b[near]
            if len(a):
                yield a, b


def _distinct(near: Near, rows: np.ndarray) -> int:
    return len(np.unique(near.keys(rows)))


def _all_pairs(starts: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> Blocks:
    """All pairs of places inside each wanted group, some at a time."""
    places = _ranges(starts[wanted], sizes[wanted])
    behind = np.repeat((starts + sizes)[wanted], sizes[wanted]) - places - 1
    ends = np.cumsum(behind)
    start = 0
    while start < len(places):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - behind[start] + _PAIRS_AT_ONCE, "right")))
        here, count = places[start:stop], behind[start:stop]
        yield np.repeat(here, count), _ranges(here + 1, count)
        start = stop


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """starts[0] .. starts[0] + sizes[0] - 1, then those of the next, and so on."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - (ends - sizes), sizes)


class _Values:
    """The distinct values of some rows, and a row for each."""

    def __init__(self, words: np.ndarray, rows: np.ndarray) -> None:
        self.rows = rows
        self.values, first, self.inverse = np.unique(words[rows], return_index=True, return_inverse=True)
        self.representatives = rows[first]


class _Groups:
    """Rows that share a value: `order[starts[k] : starts[k + 1]]` are the rows with value k."""

    def __init__(self, inverse: np.ndarray, count: int) -> None:
        self.order = np.argsort(inverse, kind="stable")
        self.starts = np.searchsorted(inverse[self.order], np.arange(count + 1))

    def expand(self, i: np.ndarray, j: np.ndarray, other: _Groups | None) -> Blocks:
        """Pairs of values as pairs of rows, some at a time; without `other`, j is left as it is."""
        left = self.starts[i + 1] - self.starts[i]
        right = other.starts[j + 1] - other.starts[j] if other is not None else np.ones(len(j), np.int64)
        # Row by row of the left side, so that one pair of very large groups is no single block.
        mine = self.order[_ranges(self.starts[i], left)]
        pair = np.repeat(np.arange(len(i)), left)
        sizes = right[pair]
        ends = np.cumsum(sizes)
        start = 0
        while start < len(mine):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] - sizes[start] + _PAIRS_AT_ONCE, "right")))
            here, size = pair[start:stop], sizes[start:stop]
            a = np.repeat(mine[start:stop], size)
            yield a, j[here] if other is None else other.order[_ranges(other.starts[j[here]], size)]
            start = stop


def _grouped(values: np.ndarray) -> tuple[np.ndarray, _Groups]:
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct, _Groups(inverse, len(distinct))
