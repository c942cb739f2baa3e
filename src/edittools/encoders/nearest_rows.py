"""The nearest of many vectors to a few queries, compared exactly, block by block."""

from __future__ import annotations

import numpy as np


class NearestRows:
    """Of each query, how many of the vectors have a cosine of at least `radius`, and the `k` nearest ones.

    The vectors come in blocks, which are not kept: `counts` (q,), `cosines` (q, k) and `rows` (q, k), numbered in the
    order in which they came, are those of all so far, the nearest first. Where there were fewer than k, the cosine is
    -inf and the row -1.
    """

    def __init__(self, queries: np.ndarray, k: int, radius: float = np.inf) -> None:
        """`queries` are unit vectors (q, dim)."""
        self.queries, self.k, self.radius = np.asarray(queries, np.float32), k, radius
        self.counts = np.zeros(len(queries), np.int64)
        self.cosines = np.full((len(queries), k), -np.inf, np.float32)
        self.rows = np.full((len(queries), k), -1, np.int64)
        self.seen = 0

    def add(self, block: np.ndarray) -> None:
        """Unit vectors (n, dim); one that has no length, of a network that overflowed, is near nothing."""
        cosines = np.nan_to_num(self.queries @ np.asarray(block, np.float32).T, copy=False, nan=-np.inf)
        self.counts += (cosines >= self.radius).sum(axis=1)
        start, self.seen = self.seen, self.seen + len(block)
        if not self.k or not len(block):
            return
        # Most blocks have nothing nearer than what is known.
        changed = np.flatnonzero(cosines.max(axis=1) > self.cosines[:, -1])
        if not len(changed):
            return
        own = cosines[changed]
        few = min(self.k, own.shape[1])
        at = np.argpartition(-own, few - 1, axis=1)[:, :few]
        values = np.concatenate([self.cosines[changed], np.take_along_axis(own, at, 1)], axis=1)
        places = np.concatenate([self.rows[changed], at + start], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, : self.k]
        self.cosines[changed] = np.take_along_axis(values, order, 1)
        self.rows[changed] = np.take_along_axis(places, order, 1)
