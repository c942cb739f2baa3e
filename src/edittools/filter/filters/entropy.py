"""RGB entropy."""

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, planes


def measure(pixels: np.ndarray) -> float:
    """Shannon entropy of the colour histogram, mean of the three channels, 0 to 8 bits."""
    from PIL import Image

    total = 0.0
    for plane in planes(pixels):
        counts = np.array(Image.fromarray(plane).histogram())
        share = counts[counts > 0] / plane.size
        total -= float((share * np.log2(share)).sum())
    return total / 3


FILTER = Filter(
    name="entropy",
    help="RGB entropy between bounds; flat images are low.",
    unit="bits, 0 to 8",
    cost=6.6,
    group="Exposure and sharpness",
    source="FireRed 2.2.2; Shannon 1948",
    raster=PHOTOMETRIC,
    measure=measure,
)
