"""Texture complexity."""

import numpy as np

from edittools.filters import PHOTOMETRIC, Filter, luma

_BLOCK = 8


def measure(pixels: np.ndarray) -> float:
    """Mean standard deviation of luma inside 8×8 blocks, 0 (flat everywhere) to 127.5."""
    y = luma(pixels)
    height, width = (side // _BLOCK * _BLOCK for side in y.shape)
    if not height or not width:
        return float(y.std())
    blocks = y[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return float(blocks.std(axis=(1, 3)).mean(dtype=np.float64))


FILTER = Filter(
    name="texture",
    help="Mean local contrast of 8×8 blocks between bounds.",
    unit="levels, 0 to 127.5",
    cost=6.9,
    source="FireRed 2.2.2 (which names no formula: ours)",
    raster=PHOTOMETRIC,
    measure=measure,
)
