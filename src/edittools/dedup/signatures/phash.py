"""A 64-bit perceptual signature, and what it becomes when the image is rotated or mirrored.

The image's 32×32 luma goes through a DCT-II; of the 8×8 lowest frequencies each gives one bit: whether it is
above the median of the 63 that are not the mean (Zauner 2010). A mirror image negates the odd frequencies of one
axis and a transpose swaps the axes, so the signatures of all eight orientations come from one transform.
"""

from __future__ import annotations

import numpy as np

from edittools.dedup.signature import DETAIL, ORIENTATIONS, Signature

RASTER = DETAIL  # one decode for both
SIDE = 32
BITS = 64
# Below this standard deviation (in levels, of the 32×32 luma) an image is flat: its frequencies are noise, and
# all flat images would look alike.
FLAT = 2.0

# Orthonormal DCT-II, the 8 lowest frequencies: C[u, x] = s(u) cos((2x + 1) u π / 64).
_FREQUENCIES = np.arange(8)[:, None] * (2 * np.arange(SIDE)[None, :] + 1) * np.pi / (2 * SIDE)
_DCT = np.cos(_FREQUENCIES) * np.sqrt(np.where(np.arange(8)[:, None] == 0, 1, 2) / SIDE)
_ODD = np.where(np.arange(8) % 2, -1.0, 1.0)
_SAME = np.ones(8)
# As it is, mirrored left-right, top-bottom, and both: (4, 8, 8).
_MIRRORED = np.stack([np.outer(v, h) for v, h in ((_SAME, _SAME), (_SAME, _ODD), (_ODD, _SAME), (_ODD, _ODD))])


def luma_32(pixels: np.ndarray) -> np.ndarray:
    """64×64 rasters (..., uint8) averaged to 32×32, float64."""
    rows = pixels[..., 0::2, :].astype(np.uint16)
    rows += pixels[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def signatures(pixels: np.ndarray) -> np.ndarray | None:
    """Signatures (8, uint64) of a 64×64 gray raster in its eight orientations; None for a flat image.

    The orientations: as it is, mirrored left-right, top-bottom, both (a half turn); and the same four of the
    transpose (two of which are the quarter turns).
    """
    return signatures_of(pixels[None])[0]


def signatures_of(rasters: np.ndarray) -> list[np.ndarray | None]:
    """The signatures of several rasters (n, 64, 64): for one alone, calling numpy costs more than its arithmetic."""
    luma = luma_32(rasters)
    # Rounded, so that the last bits of a matrix product, which differ between processors, decide nothing.
    low = np.round(_DCT @ luma @ _DCT.T, 6)
    both = np.stack((low, low.swapaxes(1, 2)), axis=1)
    flat = (both[:, :, None] * _MIRRORED).reshape(-1, ORIENTATIONS, BITS)
    median = np.sort(flat[..., 1:])[..., BITS // 2 - 1 : BITS // 2]
    above = flat > median
    above[..., 0] = False  # the mean says how bright it is, not what it shows
    words = np.packbits(above, axis=2, bitorder="little").view("<u8")[..., 0].astype(np.uint64, copy=False)
    return [None if std < FLAT else found for std, found in zip(luma.std(axis=(1, 2)), words)]


SIGNATURE = Signature("near copies by a 64-bit signature", raster=RASTER, words=signatures_of)
