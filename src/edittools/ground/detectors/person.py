"""People, by a network out of a wheel: offline, one look at the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edittools.ground import Found
from edittools.ground.people import Bodies
from edittools.metrics.boxes import mask_box

HELP = "people with their masks, offline (BlazePose; `edit weights mediapipe`)"
WEIGHTS = ""
OPEN = False
THRESHOLD = 0.5


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> People:
    return People()


class People:
    def __init__(self) -> None:
        self.bodies = Bodies()

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [self._one(image) for image in pixels]

    def _one(self, image: np.ndarray) -> list[Found]:
        height, width = image.shape[:2]
        found = []
        for body in self.bodies.find(image, 0.0):
            box = mask_box(body.mask >= 0.5)
            if box is not None:
                shares = tuple((box / np.array([width, height, width, height])).tolist())
                found.append(Found("person", shares, body.score, body.mask >= 0.5))
        return found
