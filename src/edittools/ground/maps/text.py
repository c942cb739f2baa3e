"""Where there is writing: its lines, white on black."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edittools.ground import Found
from edittools.ground.detectors import text

HELP = "lines of text as filled boxes, offline (RapidOCR)"
WEIGHTS = ""
DRAWS = "text"


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> TextMap:
    return TextMap(text.load(use="--maps text"))


class TextMap:
    def __init__(self, detector: text.TextDetector) -> None:
        self.detector = detector

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        return self.drawn(pixels, self.detector.detect([pixels], [()])[0])

    def drawn(self, pixels: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        image = np.zeros(pixels.shape[:2], np.uint8)
        for line in found:
            if line.mask is not None and (line.score or 0) >= text.THRESHOLD:
                image[line.mask] = 255
        return image
