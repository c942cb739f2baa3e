"""A turn by 90 or 180 degrees; quarter turns only of square images, whose frame stays the same."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools

TASK = "viewpoint"
LOCAL = False
INVERSE = "rotate"
QUARTERS = {"left": 1, "half": 2, "right": 3}  # counterclockwise quarter turns
INSTRUCTION = {
    "en": [
        "{rotate|turn} <whole> <turn>",
        "{give|apply to} <whole> {a rotation of|a turn of} <turn:angle>",
    ],
    "zh": [
        "<ba><whole><turn>",
        "{对|给}<whole>{做|进行}<turn:angle>{的旋转|旋转}",
    ],
}
DETAIL = {
    "en": ["{everything|the whole picture} is turned <turn:angle> {as one piece|about the center}"],
    "zh": ["整个画面{绕中心|整体}<turn>"],
}
EFFECT = {
    "en": r"\b(?:rotat|turn)",
    "zh": "转",
}
KEEPS = {
    "en": ["{colors and content|content and colors} {stay|remain} the same"],
    "zh": ["颜色和内容{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    square = image.shape[0] == image.shape[1]
    return {"turn": draw(rng, tuple(QUARTERS)) if square else "half"}


def invert_slots(slots: dict) -> dict:
    return {"turn": {"left": "right", "right": "left", "half": "half"}[slots["turn"]]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return np.rot90(image, QUARTERS[slots["turn"]]).copy()
