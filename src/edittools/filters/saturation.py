"""Mean saturation."""

import numpy as np

from edittools.filters import PHOTOMETRIC, Filter


def measure(pixels: np.ndarray) -> float:
    """Mean of HSV saturation, (max - min) / max over the channels, 0 (gray) to 1."""
    high = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    low = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    # One table look-up of 1 / max is cheaper than a division per pixel; black has saturation 0.
    return float(((high - low) * _INVERSE[high]).mean(dtype=np.float64))


_INVERSE = np.zeros(256, np.float32)
_INVERSE[1:] = 1 / np.arange(1, 256, dtype=np.float32)

FILTER = Filter(
    name="saturation",
    help="Mean HSV saturation between bounds.",
    unit="0 to 1",
    cost=6.7,
    source="FireRed 2.2.2; Smith 1978",
    raster=PHOTOMETRIC,
    measure=measure,
)
