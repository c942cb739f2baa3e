"""Sharpness."""

import numpy as np

from edittools.filter import PHOTOMETRIC, Filter, luma


def measure(pixels: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of luma; out-of-focus images are low."""
    y = luma(pixels)
    if min(y.shape) < 3:
        return 0.0
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1]
    laplacian += y[1:-1, :-2]
    laplacian += y[1:-1, 2:]
    laplacian -= 4 * y[1:-1, 1:-1]
    values = laplacian.ravel().astype(np.float64)
    return float(values @ values / values.size - values.mean() ** 2)  # the mean is next to nothing: no digits are lost


FILTER = Filter(
    name="sharpness",
    help="Variance of the Laplacian between bounds; blurred images are low.",
    unit="squared levels, 0 and more",
    cost=6.2,
    group="Exposure and sharpness",
    source="FireRed 2.2.2; Pech-Pacheco 2000",
    raster=PHOTOMETRIC,
    measure=measure,
)
