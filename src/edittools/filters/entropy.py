"""RGB entropy."""

import numpy as np

from edittools.filters import PHOTOMETRIC, Filter


def measure(pixels: np.ndarray) -> float:
    """Shannon entropy of the colour histogram, mean of the three channels, 0 to 8 bits."""
    total = 0.0
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        share = counts[counts > 0] / pixels[..., channel].size
        total -= float((share * np.log2(share)).sum())
    return total / 3


FILTER = Filter(
    name="entropy",
    help="RGB entropy between bounds; flat pictures are low.",
    unit="bits, 0 to 8",
    cost=6.6,
    source="FireRed 2.2.2; Shannon 1948",
    raster=PHOTOMETRIC,
    measure=measure,
)
