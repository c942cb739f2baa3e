"""Where a plan keeps the outlines of what it paints (colour, material, style): are they kept?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from edittools.opencv import opencv
from edittools.synth.checking import Painted

HELP = "of edits that keep outlines: F1 of the Canny edges in the paint, within a pixel at a longer side of 512"
LEAST = 0.6  # two photographs that have nothing in common reach .38 in the median, and .62 in one pair of twenty
_SIDE = 512
_NEAR = 1  # pixels
_LOW, _HIGH = 70, 160


def load(told: str = "", device: str = "cpu", dtype: str = "float32") -> Structure:
    return Structure()


class Structure:
    def __init__(self) -> None:
        self.cv2 = opencv("--check structure", "vision")

    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        return [self._one(one) if one.plan.outlines else None for one in edits]

    def _one(self, edit: Painted) -> float:
        before, after = self._edges(edit.source), self._edges(edit.target)
        size = before.shape[1], before.shape[0]
        paint = np.asarray(Image.fromarray(edit.paint).resize(size, Image.Resampling.NEAREST))
        near = np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8)
        hits, counts = [], []
        for one, other in ((after, before), (before, after)):  # precision, recall
            edges = one & paint
            close = self.cv2.dilate(other.astype(np.uint8), near).astype(bool)
            hits.append(int((edges & close).sum()))
            counts.append(int(edges.sum()))
        if not any(counts):
            return 1.0
        precision, recall = (hit / max(count, 1) for hit, count in zip(hits, counts))
        return 2 * precision * recall / max(precision + recall, 1e-12)

    def _edges(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(self.cv2.Canny(np.ascontiguousarray(image), _LOW, _HIGH)) > 0
