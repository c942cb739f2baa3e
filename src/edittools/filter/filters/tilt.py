"""Tilt: how far the image's lines are from level and upright."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.opencv import opencv
from edittools.stream.codec import Raster

RASTER = Raster(short_side=384, gray=True)
BOUND = 3.0
_MOST = 20.0  # degrees: lines farther from level and upright say nothing about tilt
_UPRIGHT = 2.0  # degrees: lines nearer than this say that the image is upright
_BIN = 0.25  # degrees
_WIDTH = 1.2  # degrees, of the Gaussian that votes are smoothed with
_NEAR = 1.5  # degrees: lines this near to the angle of most votes say what it is exactly
_SURE = 1.8  # the least sureness that counts


def angle(gray: np.ndarray, width: float = _WIDTH, level: float = _UPRIGHT) -> tuple[float, float]:
    """Degrees that the image is turned clockwise, and how sure that is (0 and more).

    Straight lines (LSD) vote for their angle to the nearer axis with their length. The tilt is the mean angle, by
    length, of the lines about the angle of most votes; sureness is those votes over the most for an angle within
    `level` degrees of upright, both in units of evenly spread votes. Votes are smoothed by `width` degrees: a narrow
    one tells smaller angles from upright, and lets lines support one another less.
    """
    if min(gray.shape) < 32:
        return 0.0, 0.0
    cv2 = opencv("--tilt or --fix-rotation")
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(np.ascontiguousarray(gray))[0]
    if lines is None:
        return 0.0, 0.0
    x0, y0, x1, y1 = lines.reshape(-1, 4).T.astype(np.float64)
    away = (np.degrees(np.arctan2(y1 - y0, x1 - x0)) + 45) % 90 - 45
    edges = np.arange(-45, 45 + _BIN, _BIN)
    length = np.hypot(x1 - x0, y1 - y0)
    votes = np.histogram(away, edges, weights=length)[0]
    reach = round(5 * width / _BIN)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _BIN / width) ** 2)
    votes = np.convolve(np.tile(votes, 3), kernel, mode="same")[len(votes) : 2 * len(votes)]
    votes /= votes.mean()
    centre = edges[:-1] + _BIN / 2
    best = int(np.where(np.abs(centre) < _MOST, votes, 0).argmax())
    upright = float(votes[np.abs(centre) < level].max())
    near = np.abs(away - centre[best]) < _NEAR
    total = float(length[near].sum())
    degrees = float((length * away)[near].sum()) / total if total else float(centre[best])
    return degrees, float(votes[best]) / (upright + 0.2)


def measure(gray: np.ndarray) -> float:
    """Degrees that the image's lines are turned from level and upright, 0 to 20; 0 where no direction prevails.

    Good on buildings, horizons and pages; weak on nature, where few images have lines that say what is level: most
    crooked ones are missed, and a slope can be taken for tilt.
    """
    degrees, sure = angle(gray)
    return abs(degrees) if sure >= _SURE else 0.0


FILTER = Filter(
    name="tilt",
    help=f"Degrees that lines are off level and upright, at most this, such as {BOUND:g}; weak on nature.",
    unit="degrees, 0 to 20",
    cost=31,
    group="Exposure and sharpness",
    source="LSD lines (Grompone von Gioi 2010); the vote is ours",
    bare="max",
    raster=RASTER,
    measure=measure,
)
