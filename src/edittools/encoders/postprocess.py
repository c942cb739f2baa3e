"""What makes descriptors of one data set comparable: whitening, and score normalisation (SSCD, section 5.1).

Both learn from reference vectors: descriptors of images of the same kind that are no copies of the searched ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edittools.encoders.embedders import normalised

_BLOCK = 4096


@dataclass(frozen=True)
class Whitening:
    """x -> unit length of (x - mean) @ matrix. `matrix` (dim, kept) has the covariance's eigenvectors as columns,
    divided by the roots of their eigenvalues."""

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, reference: np.ndarray, dims: int | None = None) -> Whitening:
        """PCA whitening from reference vectors (n, dim), to the `dims` strongest directions, or all.

        Directions in which the reference vectors do not vary are left out: there is nothing to scale them by.
        """
        mean = _mean(reference)
        covariance = np.zeros((len(mean), len(mean)))
        for block in _blocks(reference, np.float64):
            covariance += (block - mean).T @ (block - mean)
        values, vectors = np.linalg.eigh(covariance / max(1, len(reference) - 1))
        order = np.argsort(values)[::-1][: dims or len(values)]
        order = order[values[order] > values.max() * 1e-10]
        return cls(mean.astype(np.float32), (vectors[:, order] / np.sqrt(values[order])).astype(np.float32))

    @classmethod
    def centring(cls, reference: np.ndarray) -> Whitening:
        """Only the mean is taken away, which the authors found better on strongly edited copies."""
        mean = _mean(reference).astype(np.float32)
        return cls(mean, np.eye(len(mean), dtype=np.float32))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        # In float64, so that a vector's float16 does not depend on what else is in its batch.
        return normalised((np.asarray(vectors, np.float64) - self.mean) @ self.matrix.astype(np.float64))

    def save(self, path: str | Path) -> None:
        from safetensors.numpy import save_file

        save_file({"mean": self.mean, "matrix": np.ascontiguousarray(self.matrix)}, path)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        from safetensors.numpy import load_file

        return cls(**load_file(path))


def score_offsets(
    queries: np.ndarray, reference: np.ndarray, *, weight: float = 1.0, first: int = 0, last: int = 2
) -> np.ndarray:
    """What to take from every cosine of a query (SSCD, equation 8): `weight` times the mean cosine with its
    `first`-th to `last`-th nearest reference vectors, both included, counted from 0. One threshold then fits all
    queries. The defaults are those of the authors' evaluation."""
    if last >= len(reference):
        raise ValueError(f"{len(reference)} reference vectors are too few for the {last + 1} nearest")
    queries = normalised(np.asarray(queries, np.float32))
    nearest = np.zeros((len(queries), 0), np.float32)
    for block in _blocks(reference, np.float32):
        nearest = np.hstack([nearest, queries @ normalised(block).T])
        if nearest.shape[1] > last:
            nearest = -np.partition(-nearest, last, axis=1)[:, : last + 1]
    return weight * -np.sort(-nearest, axis=1)[:, first:].mean(axis=1)


def _blocks(vectors: np.ndarray, kind: type[np.floating]) -> Iterator[np.ndarray]:
    """Some vectors at a time: they may lie on disk, as float16."""
    for start in range(0, len(vectors), _BLOCK):
        yield np.asarray(vectors[start : start + _BLOCK], kind)


def _mean(vectors: np.ndarray) -> np.ndarray:
    return sum(block.sum(axis=0) for block in _blocks(vectors, np.float64)) / len(vectors)
