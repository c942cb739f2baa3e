"""Connected components of a graph whose edges come in blocks (streaming union-find, exact)."""

from __future__ import annotations

import numpy as np


class Components:
    """Disjoint sets over 0..n-1. Memory is 8 bytes per node; edges are not kept."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count, dtype=np.int64)

    def roots(self, nodes: np.ndarray) -> np.ndarray:
        """The root of each node, with the paths to it shortened."""
        found = self.parent[nodes]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                break
            found = self.parent[above]
        self.parent[nodes] = found
        return found

    def union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Join a[k] with b[k] for every k; the smaller root wins, so the result does not depend on the order."""
        while len(a):
            a, b = self.roots(a), self.roots(b)
            apart = a != b
            a, b = a[apart], b[apart]
            # A root may be given several parents at once: the smallest stays, the others come round again.
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))

    def labels(self) -> np.ndarray:
        """The smallest member of every node's component."""
        return self.roots(np.arange(len(self.parent)))
