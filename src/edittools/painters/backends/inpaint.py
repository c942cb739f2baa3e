"""OpenCV's in-painting (Telea 2004), without a network: small things on plain ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edittools.errors import RowError
from edittools.opencv import opencv
from edittools.painters import PaintRequest
from edittools.painters.canvas import depth

HELP = "what is about the region is drawn into it (OpenCV), offline: small things on plain ground, others are refused"
WEIGHTS = ""
_DEEP = 0.1  # of the image's longer side: farther from the border than this it is a blur
_MOST = 0.25  # share of the image
_RING = 0.02  # of the image's longer side: how far about the region the ground is looked at
_EVEN = (
    18.0  # levels: standard deviation of a channel in the ring from a plane (light falls off evenly) on plain ground
)
_RADIUS = 5  # pixels


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Inpaint:
    return Inpaint(opencv("--painter inpaint", "vision"))


class Inpaint:
    batch_size, multiple, area = 16, 1, None
    wants: frozenset[str] = frozenset()

    def __init__(self, cv2: Any) -> None:
        self.cv2 = cv2

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        if mask.mean() > _MOST or depth(mask) > _DEEP:
            return "too large for this painter"
        reach = max(2, round(_RING * max(mask.shape)))
        far = self.cv2.distanceTransform((~mask).astype(np.uint8), self.cv2.DIST_L2, self.cv2.DIST_MASK_PRECISE)
        ring = image[(far > 0) & (far <= reach)]
        if not len(ring):
            return "no ground about it"
        y, x = np.nonzero((far > 0) & (far <= reach))
        terms = np.stack([np.ones_like(x), x, y], axis=1).astype(np.float64)
        plane = terms @ np.linalg.lstsq(terms, ring.astype(np.float64), rcond=None)[0]
        return "the ground is not plain" if (ring - plane).std(axis=0).max() > _EVEN else None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return [self._one(request) for request in requests]

    def _one(self, request: PaintRequest) -> np.ndarray:
        mask = request.mask.astype(np.uint8) * np.uint8(255)
        return np.asarray(self.cv2.inpaint(np.ascontiguousarray(request.image), mask, _RADIUS, self.cv2.INPAINT_TELEA))
