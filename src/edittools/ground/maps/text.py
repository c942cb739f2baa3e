"""Where there is writing: its lines, white on black."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground import Found
from edittools.ground.detectors import text
from edittools.metrics.ocr import read_lines

HELP = "lines of text as filled boxes, offline (RapidOCR)"
WEIGHTS = ""
DRAWS = "text"
_USE = "--maps text"


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> TextMap:
    read_lines(np.zeros((32, 32, 3), np.uint8), _USE)  # what is missing shows before the first row
    return TextMap()


class TextMap:
    def draw(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.new("L", pixels.shape[1::-1])
        draw = ImageDraw.Draw(image)
        for line in read_lines(pixels, _USE):
            if line.score >= text.THRESHOLD:
                draw.polygon([tuple(corner) for corner in line.corners.tolist()], fill=255)
        return np.asarray(image)

    def drawn(self, pixels: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        image = np.zeros(pixels.shape[:2], np.uint8)
        for line in found:
            if line.mask is not None and (line.score or 0) >= text.THRESHOLD:
                image[line.mask] = 255
        return image
