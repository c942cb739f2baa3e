"""What makes descriptors of one data set comparable: whitening, and score normalisation (SSCD, section 5.1).

Both learn from background vectors: descriptors of pictures of the same kind that are no copies of the searched ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edittools.models.embedders import normalised


@dataclass(frozen=True)
class Whitening:
    """x -> unit length of (x - mean) @ matrix. `matrix` (dim, kept) has the covariance's eigenvectors as columns,
    divided by the roots of their eigenvalues."""

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, background: np.ndarray, dims: int | None = None) -> Whitening:
        """PCA whitening from background vectors (n, dim), to the `dims` strongest directions, or all.

        Directions in which the background does not vary are left out: there is nothing to scale them by.
        """
        background = np.asarray(background, np.float64)
        mean = background.mean(axis=0)
        centred = background - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / max(1, len(background) - 1))
        order = np.argsort(values)[::-1][: dims or len(values)]
        order = order[values[order] > values.max() * 1e-10]
        return cls(mean.astype(np.float32), (vectors[:, order] / np.sqrt(values[order])).astype(np.float32))

    @classmethod
    def centring(cls, background: np.ndarray) -> Whitening:
        """Only the mean is taken away, which the authors found better on strongly edited copies."""
        mean = np.asarray(background, np.float64).mean(axis=0).astype(np.float32)
        return cls(mean, np.eye(len(mean), dtype=np.float32))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return normalised((np.asarray(vectors, np.float32) - self.mean) @ self.matrix)

    def save(self, path: str | Path) -> None:
        from safetensors.numpy import save_file

        save_file({"mean": self.mean, "matrix": np.ascontiguousarray(self.matrix)}, path)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        from safetensors.numpy import load_file

        return cls(**load_file(path))


def score_offsets(
    queries: np.ndarray, background: np.ndarray, *, weight: float = 1.0, first: int = 0, last: int = 2
) -> np.ndarray:
    """What to take from every similarity of a query (SSCD, equation 8): `weight` times the mean similarity of its
    `first`-th to `last`-th nearest background vectors, both included, counted from 0. One threshold then fits all
    queries. The defaults are those of the authors' evaluation."""
    similarities = np.asarray(queries, np.float32) @ np.asarray(background, np.float32).T
    if last >= similarities.shape[1]:
        raise ValueError(f"{similarities.shape[1]} background vectors are too few for the {last + 1} nearest")
    nearest = -np.sort(np.partition(-similarities, last, axis=1)[:, : last + 1], axis=1)
    return weight * nearest[:, first:].mean(axis=1)
