"""The outlines of faces: oval, brows, eyes, nose and lips, white on black."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground.people import Faces

HELP = "outlines of faces out of 468 landmarks, offline (BlazeFace)"
WEIGHTS = ""
_CLOSED = (
    (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
     136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),  # the face
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),  # the eyes
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),  # the lips, outside
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191),  # and inside
    (276, 283, 282, 295, 285, 336, 296, 334, 293, 300),  # the brows
    (46, 53, 52, 65, 55, 107, 66, 105, 63, 70),
)  # fmt: skip
_OPEN = ((168, 6, 197, 195, 5, 4, 1), (98, 97, 2, 326, 327))  # the nose: its ridge, its base


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Landmarks:
    return Landmarks()


class Landmarks:
    def __init__(self) -> None:
        self.faces = Faces()

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        image = Image.new("L", (width, height))
        draw = ImageDraw.Draw(image)
        for face in self.faces.find(pixels, 0.7):
            span = float(np.ptp(face.landmarks, axis=0).max())
            points = [tuple(point) for point in face.landmarks.tolist()]
            for line in (*((*one, one[0]) for one in _CLOSED), *_OPEN):
                for a, b in pairwise(line):
                    draw.line([points[a], points[b]], fill=255, width=max(1, round(span / 150)))
        return np.asarray(image)
