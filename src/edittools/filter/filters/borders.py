"""Uniform borders: letterbox and pillarbox bars, frames."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.filter.content import CONTENT, inner

BOUND = 0.01


def measure(gray: np.ndarray) -> float:
    """Share of the image under borders of one even colour that end in a straight step, 0 to 1.

    Bars whose colour is that of the image beside them (black bars on a night sky) are missed.
    """
    top, bottom, left, right = inner(gray)
    return 1 - (bottom - top) * (right - left) / gray.size


FILTER = Filter(
    name="borders",
    help=f"Share under uniform borders at most this; {BOUND} drops letterboxes and frames.",
    unit="share of the image, 0 to 1",
    cost=22,
    group="Overlays and marks",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
