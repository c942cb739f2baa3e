"""SemDeDup (Abbas et al. 2023): of images that mean the same keep the ones far from (or near to) their centroid.

Spherical k-means; inside a cluster the rows are put in order, hard ones (far from the centroid) first or last, and a
row goes if it has a cosine above 1 - eps with one that stands before it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edittools.dedup import kmeans
from edittools.dedup.cosine import cosine

ROWS_PER_CENTROID = 1000
_ITERATIONS = 20
_BLOCK = 2048


def semantic_copies(
    vectors: np.ndarray, rows: np.ndarray, eps: float, *, clusters: int | None, hard: bool, jobs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that go, the earlier row that each is most like, and their cosine. Equal for any number of threads."""
    empty = np.zeros(0, np.int64)
    if len(rows) < 2:
        return empty, empty, np.zeros(0)
    count = clusters or max(1, len(rows) // ROWS_PER_CENTROID)
    found = kmeans.centroids(vectors, rows, count, seed=0, iterations=_ITERATIONS, jobs=jobs)
    labels, alike = kmeans.assign(vectors, rows, found, jobs)
    # Rounded: the last bits of a product are the processor's.
    alike = np.round(alike, 5)
    order = np.lexsort((rows, alike if hard else -alike, labels))
    bounds = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0, True])

    def inside(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _inside(vectors, rows[order[bounds[k] : bounds[k + 1]]], 1 - eps)

    with ThreadPoolExecutor(jobs) as pool:
        parts = list(pool.map(inside, range(len(bounds) - 1)))
    gone, of, cosines = (np.concatenate(part) for part in zip(*parts))
    return gone, of, cosines


def _inside(vectors: np.ndarray, members: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for one cluster, whose members stand in their order."""
    best, of = np.full(len(members), -2.0), np.zeros(len(members), np.int64)
    for start in range(0, len(members), _BLOCK):
        later = kmeans.unit(vectors, members[start : start + _BLOCK])
        for other in range(0, start + 1, _BLOCK):
            products = np.round(later @ kmeans.unit(vectors, members[other : other + _BLOCK]).T, 5)
            if other == start:
                products[np.triu_indices(len(products))] = -2  # only what stands before
            nearest = products.argmax(axis=1)
            value = products[np.arange(len(products)), nearest]
            better = value > best[start : start + len(value)]
            best[start : start + len(value)][better] = value[better]
            of[start : start + len(value)][better] = other + nearest[better]
    there = np.flatnonzero(best > limit - 1e-4)
    exact = cosine(vectors, members[there], members[of[there]])
    there, exact = there[exact > limit], exact[exact > limit]
    return members[there], members[of[there]], exact
