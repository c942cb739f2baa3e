"""Lines of writing, by RapidOCR's networks: offline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground import Found
from edittools.metrics.ocr import read_lines

HELP = "lines of text, and what they say, offline (RapidOCR)"
WEIGHTS = ""
OPEN = False
THRESHOLD = 0.7


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> TextDetector:
    read_lines(np.zeros((32, 32, 3), np.uint8))  # what is missing shows before the first row
    return TextDetector()


class TextDetector:
    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [self._one(image) for image in pixels]

    def _one(self, image: np.ndarray) -> list[Found]:
        size = np.array([image.shape[1], image.shape[0]])
        found = []
        for line in read_lines(image):
            corners = line.corners / size
            box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
            found.append(Found("text", box, line.score, _filled(line.corners, image.shape), line.text))
        return found


def _filled(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The line's quadrilateral, bool HxW."""
    mask = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(mask)
