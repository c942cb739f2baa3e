"""Alignment of a pair: how far what was not edited lies off its place."""

import numpy as np

from edittools.errors import RowError
from edittools.filter import Filter
from edittools.metrics.alignment import alignment
from edittools.stream.codec import Raster


def measure(source: np.ndarray, edited: np.ndarray) -> float:
    """The mean length of the motion from source to target, by shift, zoom and rotation, in pixels of the source."""
    found = alignment(source, edited)
    if found is None:
        raise RowError("not aligned", "source and edited image do not show the same", failed=False)
    return found.shift


FILTER = Filter(
    name="alignment",
    help="Mean distance that the unedited lies off its place in the source, at most this; 0.5 drops what is shifted, "
    "zoomed or turned.",
    unit="pixels of the source",
    group="Pairs",
    cost=300,
    source="efficient second-order minimisation (Benhimane and Malis 2004), Tukey's weights",
    bare="max",
    raster=Raster(gray=True),
    measure_pair=measure,
)
