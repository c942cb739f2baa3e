"""Mean saturation."""

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, planes


def measure(pixels: np.ndarray) -> float:
    """Mean of HSV saturation, (max - min) / max over the channels, 0 (gray) to 1."""
    red, green, blue = planes(pixels)
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    share = np.divide(1, np.maximum(high, 1), dtype=np.float32)  # black has saturation 0
    share *= high - low
    return float(share.mean(dtype=np.float64))


FILTER = Filter(
    name="saturation",
    help="Mean HSV saturation between bounds.",
    unit="0 to 1",
    cost=6.7,
    group="Exposure and sharpness",
    source="FireRed 2.2.2; Smith 1978",
    raster=PHOTOMETRIC,
    measure=measure,
)
