"""Where there is writing: its lines, white on black."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from edittools.metrics.ocr import read_lines

HELP = "lines of text as filled boxes, offline (RapidOCR)"
WEIGHTS = ""
_SURE = 0.7  # of what a line says


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> TextMap:
    read_lines(np.zeros((32, 32, 3), np.uint8), "--maps text")  # what is missing shows before the first row
    return TextMap()


class TextMap:
    def draw(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.new("L", pixels.shape[1::-1])
        draw = ImageDraw.Draw(image)
        for line in read_lines(pixels, "--maps text"):
            if line.score >= _SURE:
                draw.polygon([tuple(corner) for corner in line.corners.tolist()], fill=255)
        return np.asarray(image)
