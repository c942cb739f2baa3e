"""All pairs of vectors at or above a cosine; float16 on disk, never all in memory.

Up to EXACT vectors all pairs are compared, a block of matrix products at a time. Above, two things leave pairs out
before they are compared in full, and may miss a few:

- A random projection to 128 dimensions (Johnson and Lindenstrauss 1984). It changes the cosine c of a pair by about
  (1 - c²) / √128, and pairs more than 4 times that below the limit are left out.
- k-means cuts that space into lists. A vector lives in the list of its nearest centroid and is compared with
  everything that lives in its PROBES nearest ones: the inverted file of Sivic and Zisserman (2003), joined with
  itself. A pair is missed if neither visits the other's list.

Either way a candidate counts by its cosine of the whole vectors in float64, rounded to 6 digits, so that the answer
depends neither on the blocks nor on the threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edittools.dedup import kmeans

EXACT = 50_000
PROBES = 96
_BLOCK = 2048
_PROJECTED = 128
_PROJECT_FROM = 0.6  # below it a projection would leave hardly any pair out
_MARGIN = 1e-4  # what rounding may cost a candidate's product in float32
_CHECKED_AT_ONCE = 1 << 13


def cosine(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of vectors[a[k]] and vectors[b[k]], float64 rounded to 6 digits; 0 where one of them is zero."""
    found = np.empty(len(a))
    for start in range(0, len(a), _CHECKED_AT_ONCE):
        part = slice(start, start + _CHECKED_AT_ONCE)
        x, y = vectors[a[part]].astype(np.float64), vectors[b[part]].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y))
        found[part] = np.einsum("ij,ij->i", x, y) / np.where(lengths == 0, 1, lengths)
    return np.round(found, 6)


def near_cosine(
    vectors: np.ndarray, rows: np.ndarray, limit: float, *, jobs: int = 1, fresh: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (a, b), different ones of `rows` whose vectors have a cosine of at least `limit`.

    With `fresh` (bool per vector) only pairs with a fresh one among them. A pair may be reported twice.
    """
    if len(rows) < 2:
        return
    if fresh is not None:  # those that ask first
        rows = rows[np.argsort(~fresh[rows], kind="stable")]
        queries = int(fresh[rows].sum())
    else:
        queries = len(rows)
    found = _all_pairs if len(rows) <= EXACT else _partitioned
    for a, b in found(vectors, rows, queries, limit - _MARGIN, jobs):
        near = cosine(vectors, a, b) >= limit
        if near.any():
            yield a[near], b[near]


def _all_pairs(
    vectors: np.ndarray, rows: np.ndarray, queries: int, limit: float, jobs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    def compare(start: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        left, right = rows[start : min(start + _BLOCK, queries)], rows[other : other + _BLOCK]
        i, j = _at_least(kmeans.unit(vectors, left) @ kmeans.unit(vectors, right).T, limit)
        later = i + start < j + other
        return left[i[later]], right[j[later]]

    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, queries, _BLOCK):
            yield from pool.map(lambda other, start=start: compare(start, other), range(start, len(rows), _BLOCK))


def _partitioned(
    vectors: np.ndarray, rows: np.ndarray, queries: int, limit: float, jobs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    count, lists = len(rows), min(len(rows), int(4 * np.sqrt(len(rows))))
    probes = min(PROBES, lists)
    project = vectors.shape[1] > _PROJECTED and limit > _PROJECT_FROM
    width = _PROJECTED if project else vectors.shape[1]
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two, ThreadPoolExecutor(jobs) as pool:
        small = np.memmap(one, np.float16, "w+", shape=(count, width))
        _project(vectors, rows, small)
        if project:
            limit -= 4 * (1 - limit**2) / np.sqrt(_PROJECTED)
        everyone = np.arange(count)
        centroids = kmeans.centroids(small, everyone, lists, seed=0, iterations=5, per_centroid=32, jobs=jobs)
        # Which lists each vector visits, its own first; on disk, for it is longer than the vectors' facts.
        visits = np.memmap(two, np.int32, "w+", shape=(count, probes))
        for start, near in kmeans.nearest(small, everyone, centroids, probes, pool):
            visits[start : start + len(near)] = near
        home = np.array(visits[:, 0])
        residents = np.argsort(home, kind="stable").astype(np.int32)
        bounds = np.searchsorted(home[residents], np.arange(lists + 1))
        step = max(1, lists // 16)
        for first in range(0, lists, step):
            visitors, starts = _visitors(visits, first, min(first + step, lists))

            def join(
                k: int, first: int = first, visitors: np.ndarray = visitors, starts: np.ndarray = starts
            ) -> list[tuple[np.ndarray, np.ndarray]]:
                living = residents[bounds[first + k] : bounds[first + k + 1]]
                return _join(small, visitors[starts[k] : starts[k + 1]], living, queries, limit)

            for blocks in pool.map(join, range(min(step, lists - first))):
                yield from ((rows[a], rows[b]) for a, b in blocks)


def _project(vectors: np.ndarray, rows: np.ndarray, small: np.ndarray) -> None:
    """Fill `small` with the vectors, at length 1, in fewer dimensions where it has fewer."""
    dim, width = vectors.shape[1], small.shape[1]
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, width)))[0] if width < dim else None
    for start in range(0, len(rows), _BLOCK):
        part = kmeans.unit(vectors, rows[start : start + _BLOCK])
        if turn is not None:
            part = part @ turn.astype(np.float32)
            part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        small[start : start + len(part)] = part


def _visitors(visits: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Those who visit the lists first..last, by list, and where each list's begin."""
    who, where = [], []
    for start in range(0, len(visits), 1 << 16):
        block = visits[start : start + (1 << 16)]
        row, place = np.nonzero((block >= first) & (block < last))
        who.append((row + start).astype(np.int32))
        where.append(block[row, place])
    visitors, lists = np.concatenate(who), np.concatenate(where)
    order = np.argsort(lists, kind="stable")
    return visitors[order], np.searchsorted(lists[order], np.arange(first, last + 1))


def _join(
    small: np.ndarray, visitors: np.ndarray, living: np.ndarray, queries: int, limit: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for start in range(0, len(living), _BLOCK):
        right = living[start : start + _BLOCK]
        there = kmeans.unit(small, right)
        for other in range(0, len(visitors), _BLOCK):
            left = visitors[other : other + _BLOCK]
            i, j = _at_least(kmeans.unit(small, left) @ there.T, limit)
            a, b = left[i], right[j]
            wanted = (a != b) & (np.minimum(a, b) < queries)
            if wanted.any():
                a, b = a[wanted], b[wanted]
                found.append((np.minimum(a, b), np.maximum(a, b)))
    return found


def _at_least(products: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a matrix reaches a limit; `nonzero` of a flat array is much the faster one."""
    return np.divmod(np.flatnonzero(products.ravel() >= limit), products.shape[1])
