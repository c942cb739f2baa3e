"""What says that two images are copies without a model: a digest of their content, or 64 bits of their look.

One is a file of signatures/, which declares `SIGNATURE`; its name is that of `--method` and in the rejects.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edittools.registry import Registry
from edittools.stream.codec import Buffer, Raster

SIGNATURES = Registry("edittools.dedup.signatures", "edittools.signatures")
ORIENTATIONS = 8  # as it is, mirrored left-right, top-bottom, both; and the same of the transpose
DETAIL = Raster(square=64, gray=True)


def of_bytes(data: Buffer, max_pixels: int) -> bytes:
    """sha256 of a file as it is."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Signature:
    """How images are compared.

    With `words` they are near copies where these differ in few bits; without, copies have the same `digest`. Images
    of equal digests are copies always, flat ones too.
    """

    help: str  # of --method NAME
    digest: Callable[[Buffer, int], bytes] = of_bytes  # of an encoded image and --max-pixels: 32 bytes
    raster: Raster | None = None  # what `words` looks at
    # Rasters (n, ...) -> for each its 64 bits as uint64, (1,), or (8,) for all ORIENTATIONS; None for a flat image
    words: Callable[[np.ndarray], list[np.ndarray | None]] | None = None


@functools.cache
def all_signatures() -> dict[str, Signature]:
    return SIGNATURES.each("SIGNATURE")


def of_bits() -> list[str]:
    """The names of those that compare bits."""
    return [name for name, signature in all_signatures().items() if signature.words is not None]


def detail(pixels: np.ndarray) -> np.ndarray:
    """Sharpness of 64×64 rasters (...), to choose between copies: variance of the Laplacian."""
    y = pixels.astype(np.float32)
    inner = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:] - 4 * y[..., 1:-1, 1:-1]
    return inner.var(axis=(-2, -1), dtype=np.float64)
