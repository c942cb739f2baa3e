"""Groups of images that are alike without being copies, which training can draw equally often (FireRed 3.4).

Spherical k-means: over a model's vectors, which groups by meaning; over perceptual signatures, which groups by layout.
"""

from __future__ import annotations

import math

import numpy as np

from edittools.dedup import kmeans
from edittools.dedup.near import Cosine, Hamming

MOST = 1024  # groups, unless more are asked for
_ITERATIONS = 20


class _Signs:
    """Signatures as vectors of +1 and -1, whose cosine is 1 - 2 bits / 64; unpacked a block at a time."""

    dtype = np.dtype(np.float32)

    def __init__(self, words: np.ndarray) -> None:
        self.words = words

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.ascontiguousarray(self.words[rows], "<u8")
        return np.unpackbits(chosen.view(np.uint8).reshape(len(chosen), 8), axis=1).astype(np.float32) * 2 - 1


def likeness_groups(
    image: Cosine | Hamming, kept: np.ndarray, rows: np.ndarray, count: int | None, jobs: int
) -> np.ndarray:
    """The group of every one of `rows`, int32, -1 of all others and of those without a signature.

    kept    the rows that the groups are learnt from
    count   groups; None: the square root of their number, 1,024 at most
    """
    vectors = image.vectors if isinstance(image, Cosine) else _Signs(image.words[:, 0])
    kept, rows = kept[image.valid[kept]], rows[image.valid[rows]]
    made = np.full(len(image.valid), -1, np.int32)
    if len(kept):
        count = count or min(MOST, math.isqrt(len(kept)))
        found = kmeans.centroids(vectors, kept, count, seed=0, iterations=_ITERATIONS, apart=True, jobs=jobs)
        made[rows] = kmeans.assign(vectors, rows, found, jobs)[0]
    return made
