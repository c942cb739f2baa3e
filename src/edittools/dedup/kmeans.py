"""Spherical k-means (Dhillon and Modha 2001) over float16 vectors on disk, a block at a time. Seeded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

_BLOCK = 4096


class Vectors(Protocol):
    """Rows of numbers: an array, or what unpacks them when they are asked for."""

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


_EXPONENT = np.float32(2.0**112)


def unit(vectors: Vectors, rows: np.ndarray | slice) -> np.ndarray:
    """Some vectors as float32 of length 1; zeros stay zeros."""
    wide = _widen(vectors[rows])
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide *= (1 / np.where(lengths == 0, 1, lengths))[:, None]
    return wide


def _widen(halves: np.ndarray) -> np.ndarray:
    """float16 as float32, for finite values; several times faster than `astype`."""
    if halves.dtype != np.float16:
        return np.asarray(halves, np.float32)
    bits = np.ascontiguousarray(halves).view(np.uint16).astype(np.uint32)
    sign = (bits & 0x8000) << 16
    bits &= 0x7FFF
    bits <<= 13
    bits |= sign
    wide = bits.view(np.float32)
    wide *= _EXPONENT  # the exponents' biases differ by 127 - 15; subnormal values come out right too
    return wide


def centroids(
    vectors: Vectors,
    rows: np.ndarray,
    count: int,
    *,
    seed: int,
    iterations: int,
    per_centroid: int = 256,
    apart: bool = False,
    jobs: int = 1,
) -> np.ndarray:
    """`count` unit centroids (fewer if there are fewer rows), float32, learnt on a sample of rows.

    The start is a random choice of rows, or rows that lie `apart`, which takes time with the square of `count` and
    finds small clusters beside large ones. A centroid that nothing is nearest to becomes the row that is farthest
    from its own.
    """
    rng = np.random.default_rng(seed)
    sample = rows
    if len(rows) > per_centroid * count:
        sample = rows[np.sort(rng.choice(len(rows), per_centroid * count, replace=False))]
    count = min(count, len(sample))
    begin = _apart(vectors, sample, count, rng) if apart else rng.choice(len(sample), count, replace=False)
    found = unit(vectors, sample[np.sort(begin)])
    with ThreadPoolExecutor(jobs) as pool:
        for _ in range(iterations):
            sums, members = np.zeros_like(found), np.zeros(count, np.int64)
            worst: list[tuple[np.ndarray, np.ndarray]] = []
            for start, labels, alike in _assigned(vectors, sample, found, pool):
                block = unit(vectors, sample[start : start + len(labels)])
                order = np.argsort(labels, kind="stable")
                present, first = np.unique(labels[order], return_index=True)
                sums[present] += np.add.reduceat(block[order], first, axis=0)
                members[present] += np.diff(np.r_[first, len(order)])
                far = np.argsort(alike, kind="stable")[: max(1, count // 16)]
                worst.append((alike[far], sample[start + far]))
            empty = np.flatnonzero(members == 0)
            if len(empty):
                alike, far = (np.concatenate(part) for part in zip(*worst))
                chosen = far[np.argsort(alike, kind="stable")[: len(empty)]]
                sums[empty[: len(chosen)]] = unit(vectors, chosen)
                sums[empty[len(chosen) :]] = found[empty[len(chosen) :]]
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            found = np.where(lengths > 0, sums / np.where(lengths == 0, 1, lengths), found)
    return found


def _apart(vectors: Vectors, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places in `rows`, each drawn in proportion to its squared distance from those before (k-means++, Arthur and
    Vassilvitskii 2007), among 32 rows per centroid."""
    pool = np.sort(rng.choice(len(rows), min(len(rows), 32 * count), replace=False))
    points = unit(vectors, rows[pool])
    chosen = [int(rng.integers(len(pool)))]
    far = np.full(len(pool), np.inf)
    while len(chosen) < count:
        # |a - b|^2 = 2 (1 - cos) of unit vectors; rounded: the last bits of a product are the processor's
        far = np.minimum(far, np.round(1 - points @ points[chosen[-1]], 5).clip(0))
        far[chosen[-1]] = 0
        left = far if far.sum() > 0 else np.isin(np.arange(len(pool)), chosen, invert=True).astype(float)
        chosen.append(int(rng.choice(len(pool), p=left / left.sum(dtype=float))))
    return pool[chosen]


def assign(vectors: Vectors, rows: np.ndarray, found: np.ndarray, jobs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of every row, and its cosine."""
    labels, alike = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
    with ThreadPoolExecutor(jobs) as pool:
        for start, label, near in _assigned(vectors, rows, found, pool):
            labels[start : start + len(label)], alike[start : start + len(label)] = label, near
    return labels, alike


def _assigned(
    vectors: Vectors, rows: np.ndarray, found: np.ndarray, pool: Executor
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    def work(start: int) -> tuple[int, np.ndarray, np.ndarray]:
        alike = unit(vectors, rows[start : start + _BLOCK]) @ found.T
        labels = alike.argmax(axis=1)
        return start, labels, alike[np.arange(len(labels)), labels]

    yield from pool.map(work, range(0, len(rows), _BLOCK))


def nearest(
    vectors: Vectors, rows: np.ndarray, found: np.ndarray, count: int, pool: Executor
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of (first row, its `count` nearest centroids with the nearest in front)."""

    def work(start: int) -> tuple[int, np.ndarray]:
        alike = unit(vectors, rows[start : start + _BLOCK // 4]) @ found.T
        best = np.argpartition(-alike, count - 1, axis=1)[:, :count].astype(np.int32)
        line = np.arange(len(best))
        top = np.take_along_axis(alike, best, 1).argmax(axis=1)
        best[line, top], best[:, 0] = best[:, 0].copy(), best[line, top]
        return start, best

    yield from pool.map(work, range(0, len(rows), _BLOCK // 4))
