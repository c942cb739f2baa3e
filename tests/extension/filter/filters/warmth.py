"""Warmth: whether an image is rather red or rather blue."""

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, planes


def measure(pixels: np.ndarray) -> float:
    """The mean of red less the mean of blue, of uint8 HxWx3."""
    red, _, blue = planes(pixels)
    return float(red.mean() - blue.mean())


FILTER = Filter(
    name="warmth",
    help="Mean of red less mean of blue, at least this; cold images are low.",
    unit="levels, -255 to 255",
    source="an example",
    cost=6,
    raster=PHOTOMETRIC,
    measure=measure,
)
