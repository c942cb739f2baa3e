"""Marks in a corner: signatures, addresses, dates, logos with a word."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.filter.filters.text_overlay import RASTER, covered, lines

BOUND = 0.0
_CORNER = 0.09  # of the sides: how far from both edges of its corner a mark may lie
_LONGEST = 0.7  # of the width; longer is a caption


def measure(pixels: np.ndarray) -> float:
    """Share of the image under lines of text that lie in a corner, 0 to 1. A logo without letters is missed."""
    found = lines(pixels)
    height, width = pixels.shape[:2]
    x, y = found[..., 0], found[..., 1]
    beside = np.minimum(x.min(axis=1), width - x.max(axis=1)) <= _CORNER * width
    above = np.minimum(y.min(axis=1), height - y.max(axis=1)) <= _CORNER * height
    short = x.max(axis=1) - x.min(axis=1) <= _LONGEST * width
    return covered(found[beside & above & short], pixels)


FILTER = Filter(
    name="corner_mark",
    help="Share under text in the corners at most this; 0 drops signatures, addresses and dates.",
    unit="share of the image, 0 to 1",
    cost=210,
    group="Overlays and marks",
    source="FireRed 2.2.3; the PP-OCR detector through RapidOCR",
    bare="max",
    raster=RASTER,
    measure=measure,
)
