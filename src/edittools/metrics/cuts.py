"""Cuts of a video by how alike neighbouring frames are, the published rule of Koala-36M (Wang et al. 2024): colours and
outlines, weighed by a linear classifier, and a bound that follows the frames before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edittools.metrics.pixels import ssim
from edittools.opencv import opencv

SIDE = 256  # pixels that a frame is looked at with, its aspect ratio lost
_COLOURS, _OUTLINES, _OFFSET = 4.61480465, 3.75211168, 5.485968377115124
_CANNY = 100, 200
_BEFORE = 8  # scores that the bound follows
_TRIM = 0.2  # of these, at either end of their order
_UNALIKE, _LEAST_SPREAD, _DEVIATIONS = 0.75, 0.2, 3.0
_SHORTEST = 8  # frames; a clip has more
_ERODED = 4  # frames at either end of a clip, which fades may have changed


class FrameLook:
    """What is kept of a frame (uint8 SIDE x SIDE x 3)."""

    def __init__(self, frame: np.ndarray) -> None:
        cv2: Any = opencv("--frames", "video")
        # 254 bins of the levels 1 to 254.
        self.colours = np.stack([np.bincount(frame[..., k].ravel(), minlength=256)[1:255] for k in range(3)]).ravel()
        gray = np.asarray(Image.fromarray(frame).convert("L").resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR))
        self.outlines = np.maximum(gray, cv2.Canny(np.ascontiguousarray(gray), *_CANNY))

    def alike(self, other: FrameLook) -> float:
        """The classifier's score of two neighbouring frames; below 0 there is a cut between them."""
        a, b = (one.colours - one.colours.mean() for one in (self, other))
        spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
        colours = float((a * b).sum()) / spread if spread > 0 else 1.0
        outlines = ssim(*(np.repeat(one.outlines[..., None], 3, axis=2) for one in (self, other)))
        assert outlines is not None
        return _COLOURS * colours + _OUTLINES * outlines - _OFFSET


def clips(scores: Sequence[float]) -> list[tuple[int, int]]:
    """First and last frame (exclusive) of every clip, of the scores of all neighbours (one less than frames)."""
    score = np.asarray(scores, np.float64)
    smooth = score.copy()
    if len(score) >= 3:
        smooth[1:-1] = (score[:-2] + score[1:-1] + score[2:]) / 3
    starts = [0, *(k + 1 for k in range(len(score)) if score[k] < 0 or _sudden(smooth, k)), len(score) + 1]
    found = [(first, last) for first, last in itertools.pairwise(starts) if last - first > _SHORTEST]
    return [(first + _ERODED, last - _ERODED) for first, last in found]


def _sudden(smooth: np.ndarray, k: int) -> bool:
    """Whether a score falls out of those before it."""
    if k < _BEFORE or smooth[k] >= _UNALIKE:
        return False
    before = np.sort(smooth[k - _BEFORE : k])
    cut = int(_TRIM * _BEFORE)
    kept = before[cut : len(before) - cut]
    return bool(smooth[k] < kept.mean() - _DEVIATIONS * max(_LEAST_SPREAD, float(kept.std())))
