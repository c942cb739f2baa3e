"""A 64-bit perceptual signature, and what it becomes when the picture is rotated or mirrored.

The picture's 32×32 luma goes through a DCT-II; of the 8×8 lowest frequencies each gives one bit: whether it is
above the median of the 63 that are not the mean (Zauner 2010). A mirror image negates the odd frequencies of one
axis and a transpose swaps the axes, so the signatures of all eight orientations come from one transform.
"""

from __future__ import annotations

import numpy as np

from edittools.stream.images import Raster

RASTER = Raster(square=64, gray=True)
SIDE = 32
BITS = 64
ORIENTATIONS = 8
# Below this standard deviation (in levels, of the 32×32 luma) a picture is flat: its frequencies are noise, and
# all flat pictures would look alike.
FLAT = 2.0

# Orthonormal DCT-II, the 8 lowest frequencies: C[u, x] = s(u) cos((2x + 1) u π / 64).
_FREQUENCIES = np.arange(8)[:, None] * (2 * np.arange(SIDE)[None, :] + 1) * np.pi / (2 * SIDE)
_DCT = np.cos(_FREQUENCIES) * np.sqrt(np.where(np.arange(8)[:, None] == 0, 1, 2) / SIDE)
_ODD = np.where(np.arange(8) % 2, -1.0, 1.0)
_WEIGHTS = np.uint64(1) << np.arange(BITS, dtype=np.uint64)


def luma_32(pixels: np.ndarray) -> np.ndarray:
    """The 64×64 raster (uint8) averaged to 32×32, float64."""
    return pixels.reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3), dtype=np.float64)


def signatures(pixels: np.ndarray) -> np.ndarray | None:
    """Signatures (8, uint64) of a 64×64 gray raster in its eight orientations; None for a flat picture.

    The orientations: as it is, mirrored left-right, top-bottom, both (a half turn); and the same four of the
    transpose (two of which are the quarter turns).
    """
    luma = luma_32(pixels)
    if luma.std() < FLAT:
        return None
    # Rounded, so that the last bits of a matrix product, which differ between processors, decide nothing.
    low = np.round(_DCT @ luma @ _DCT.T, 6)
    turned = []
    for base in (low, low.T):
        turned += [base, base * _ODD[None, :], base * _ODD[:, None], base * _ODD[None, :] * _ODD[:, None]]
    flat = np.stack(turned).reshape(ORIENTATIONS, BITS)
    above = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    above[:, 0] = False  # the mean says how bright it is, not what it shows
    return (above * _WEIGHTS).sum(axis=1, dtype=np.uint64)


def detail(pixels: np.ndarray) -> float:
    """Sharpness of the 64×64 raster, to choose between copies: variance of the Laplacian."""
    y = pixels.astype(np.float32)
    inner = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(inner.var(dtype=np.float64))
