"""Canny edges (Canny 1986): white on black."""

from __future__ import annotations

from typing import Any

import numpy as np

from edittools.opencv import opencv

HELP = "edges, white on black (Canny, 100 and 200)"
WEIGHTS = ""
LOW, HIGH = 100, 200  # the usual ones of the canny ControlNets


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Canny:
    return Canny(opencv("--maps canny", "vision"))


class Canny:
    def __init__(self, cv2: Any) -> None:
        self.cv2, self.low, self.high = cv2, LOW, HIGH

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        return np.asarray(self.cv2.Canny(np.ascontiguousarray(pixels), self.low, self.high))
