"""The five plain operations that can be done to one cell of the 3 x 3 grid alone."""

import numpy as np

from edittools.synth.pixels import gamma_table, gaussian, gray
from edittools.synth.shapes import cell

OPERATIONS = ("brighten", "darken", "gray", "invert", "blur")


def operate(area: np.ndarray, operation: str) -> np.ndarray:
    """The operation at medium strength on a piece of an image, which knows nothing of the rest."""
    if operation == "brighten":
        return gamma_table(1, 2)[area]
    if operation == "darken":
        return gamma_table(2, 1)[area]
    if operation == "gray":
        return gray(area)
    if operation == "invert":
        return 255 - area
    if operation == "blur":
        return gaussian(np.ascontiguousarray(area), max(1.0, min(area.shape[:2]) / 10))
    raise ValueError(f"unknown operation: {operation}")


def operate_on_cell(image: np.ndarray, slots: dict) -> np.ndarray:
    """A copy with one cell changed; slots hold `operation` and `place`."""
    x0, y0, x1, y1 = cell(slots["place"], *image.shape[:2])
    result = image.copy()
    result[y0:y1, x0:x1] = operate(image[y0:y1, x0:x1], slots["operation"])
    return result
