"""The reddest quarter of an image."""

from collections.abc import Sequence

import numpy as np

from edittools.ground import Found

HELP = "the reddest quarter of the image"
WEIGHTS = ""
OPEN = False
THRESHOLD = 0.2


def load(weights: str, **placed: str) -> "Reddest":
    return Reddest()


class Reddest:
    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        """uint8 HxWx3 each -> one object each, its box in shares of width and height."""
        return [[max(map(self.look, QUARTERS, [image] * 4), key=lambda one: one.score)] for image in pixels]

    def look(self, box: tuple[float, float, float, float], image: np.ndarray) -> Found:
        height, width = image.shape[:2]
        (x0, x1), (y0, y1) = (round(side * width) for side in box[::2]), (round(side * height) for side in box[1::2])
        quarter = image[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0) / 255
        return Found("red", box, float(max(0, quarter[0] - quarter[1:].mean())))


QUARTERS = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
