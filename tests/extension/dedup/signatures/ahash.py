"""The average hash: of 8 x 8 pixels, which are brighter than their mean."""

import numpy as np

from edittools.dedup.signature import Signature
from edittools.stream.codec import Raster


def words(rasters: np.ndarray) -> list[np.ndarray | None]:
    """uint8 (n, 8, 8) -> n times 64 bits; None for an image of one colour, which is compared exactly."""
    levels = rasters.reshape(len(rasters), 64)
    bits = np.packbits(levels > levels.mean(axis=1, keepdims=True), axis=1).view(np.uint64)
    return [row if flat > 0 else None for row, flat in zip(bits, np.ptp(levels, axis=1))]


SIGNATURE = Signature("near copies by the average hash", raster=Raster(square=8, gray=True), words=words)
