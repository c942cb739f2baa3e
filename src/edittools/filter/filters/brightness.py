"""Mean luma."""

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, luma


def measure(pixels: np.ndarray) -> float:
    """Mean Rec. 601 luma of HxWx3, 0 (black) to 255 (white)."""
    return float(luma(pixels).mean())


FILTER = Filter(
    name="brightness",
    help="Mean luma between bounds, such as 20..235.",
    unit="0 to 255",
    cost=5.5,
    group="Exposure and sharpness",
    source="FireRed 2.2.2; Rec. 601 luma",
    raster=PHOTOMETRIC,
    measure=measure,
)
