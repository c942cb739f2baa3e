"""Sharpness."""

import numpy as np

from edittools.filters import PHOTOMETRIC, Filter, luma


def measure(pixels: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of luma; out-of-focus pictures are low."""
    y = luma(pixels)
    if min(y.shape) < 3:
        return 0.0
    centre = y[1:-1, 1:-1]
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * centre
    return float(laplacian.var(dtype=np.float64))


FILTER = Filter(
    name="sharpness",
    help="Variance of the Laplacian between bounds; blurred pictures are low.",
    unit="squared levels, 0 and more",
    cost=6.2,
    source="FireRed 2.2.2; Pech-Pacheco 2000",
    raster=PHOTOMETRIC,
    measure=measure,
)
