"""Tilt: how far the picture's lines are from level and upright."""

from __future__ import annotations

import numpy as np

from edittools.filters import Filter
from edittools.filters.content import opencv
from edittools.stream.images import Raster

RASTER = Raster(short_side=384, gray=True)
BOUND = 3.0
_MOST = 20.0  # degrees: lines farther from level and upright say nothing about tilt
_BIN = 0.25  # degrees


def angle(gray: np.ndarray) -> tuple[float, float]:
    """Degrees that the picture is turned clockwise, and how sure that is, 0 to 1.

    Straight lines (LSD) vote for their angle to the nearer axis, as the square of their length; the votes are
    smoothed, and the highest place is the tilt. Sureness is the share of all votes that lies there.
    """
    if min(gray.shape) < 32:
        return 0.0, 0.0
    cv2 = opencv("--tilt")
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(np.ascontiguousarray(gray))[0]
    if lines is None:
        return 0.0, 0.0
    x0, y0, x1, y1 = lines.reshape(-1, 4).T.astype(np.float64)
    length = np.hypot(x1 - x0, y1 - y0)
    away = (np.degrees(np.arctan2(y1 - y0, x1 - x0)) + 45) % 90 - 45
    use = (length > 0.04 * min(gray.shape)) & (np.abs(away) < _MOST)
    if not use.any():
        return 0.0, 0.0
    edges = np.arange(-_MOST, _MOST + _BIN, _BIN)
    votes = np.histogram(away[use], edges, weights=length[use] ** 2)[0]
    kernel = np.exp(-0.5 * (np.arange(-8, 9) * _BIN / 0.6) ** 2)
    smooth = np.convolve(votes, kernel / kernel.max(), mode="same")
    best = int(smooth.argmax())
    return float(edges[best] + _BIN / 2), float(smooth[best] / (length[length > 0.04 * min(gray.shape)] ** 2).sum())


def measure(gray: np.ndarray) -> float:
    """Degrees that the picture's lines are turned from level and upright, 0 to 20; 0 where no direction prevails.

    """
    degrees, sure = angle(gray)
    return abs(degrees) if sure >= _SURE else 0.0


_SURE = 0.2

FILTER = Filter(
    name="tilt",
    help=f"Degrees that lines are turned from level and upright, at most this; {BOUND:g} drops crooked pictures.",
    unit="degrees, 0 to 20",
    source="ours; lines by LSD (Grompone von Gioi 2010)",
    bare="max",
    raster=RASTER,
    measure=measure,
)
