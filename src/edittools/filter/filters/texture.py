"""Texture complexity."""

import functools

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, luma

_BLOCK = 8


def measure(pixels: np.ndarray) -> float:
    """Mean standard deviation of luma inside 8×8 blocks, 0 (flat everywhere) to 127.5."""
    y = luma(pixels)
    height, width = (side // _BLOCK * _BLOCK for side in y.shape)
    if not height or not width:
        return float(y.std())
    blocks = y[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    # Pixels of a block along the two first axes, so that every operation runs over all blocks at once.
    pixel = np.ascontiguousarray(blocks.transpose(1, 3, 0, 2))
    pixel -= _mean(pixel)
    pixel *= pixel
    return float(np.sqrt(_mean(pixel)).mean(dtype=np.float64))


def _mean(pixel: np.ndarray) -> np.ndarray:
    """Mean over the 8×8 pixels of every block, in the order in which numpy adds up the rows of one block."""
    a, b, c, d, e, f, g, h = pixel.swapaxes(0, 1)
    rows = ((a + b) + (c + d)) + ((e + f) + (g + h))
    return functools.reduce(np.add, rows) / np.float32(_BLOCK * _BLOCK)


FILTER = Filter(
    name="texture",
    help="Mean local contrast of 8×8 blocks between bounds.",
    unit="levels, 0 to 127.5",
    cost=6.9,
    group="Exposure and sharpness",
    source="FireRed 2.2.2 (which names no formula: ours)",
    raster=PHOTOMETRIC,
    measure=measure,
)
