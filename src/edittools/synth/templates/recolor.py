"""Two colour channels exchanged: hues move by a reflection of the colour wheel, exactly."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools

TASK = "color"
LOCAL = False
INVERSE = "recolor"
ORDERS = {"red_green": [1, 0, 2], "green_blue": [0, 2, 1], "red_blue": [2, 1, 0]}
INSTRUCTION = {
    "en": [
        "{swap|exchange|switch} the <channels:pair> {channels|color channels} of <whole>",
        "{swap|exchange|switch} {the colors <channels:pair>|<channels:pair>} {in|throughout} <whole>",
    ],
    "zh": [
        "{交换|对调|互换}<whole>的<channels:pair>{通道|颜色通道|两个通道}",
        "<ba><whole>的<channels:pair>{通道|颜色通道|两个通道}{交换|对调|互换}",
    ],
}
DETAIL = {
    "en": ["<channels:outcome>[, throughout the picture]"],
    "zh": ["[整个画面中，]<channels:outcome>"],
}
EFFECT = {
    "en": r"\b(?:swap|exchang|switch|channel)",
    "zh": "交换|对调|互换",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"channels": draw(rng, tuple(ORDERS))}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return image[..., ORDERS[slots["channels"]]]
