"""Warmer colours: red is multiplied by a gain and blue divided by it."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import line_table, per_channel

TASK = "tone"
LOCAL = False
INVERSE = "cool"
GAINS = {"slight": (10, 9), "medium": (5, 4), "strong": (5, 3)}
INSTRUCTION = {
    "en": [
        "{make|turn} {the colors|the tones|the color temperature} of <picture> <strength:comparative> warmer",
        "{make|turn} <whole> <strength:comparative> warmer [in tone|in color]",
        "<strength:adverb> {warm up|warm} {the colors|the tones|the white balance} of <picture>",
    ],
    "zh": [
        "<ba><whole>{的色调|的颜色|的色温|}<strength>{调暖|变暖|调得偏暖}",
        "{让|使}<whole>{的色调|的颜色|}<strength>{变暖|更暖|偏暖}",
    ],
}
DETAIL = {
    "en": [
        "reds {get|become|are} <strength:comparative> stronger and blues <strength:comparative> weaker",
    ],
    "zh": ["红色<strength>增强，蓝色<strength>减弱"],
}
EFFECT = {
    "en": r"\bwarm",
    "zh": "暖",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    up, down = GAINS[slots["strength"]]
    return per_channel(image, line_table(up, down), line_table(1, 1), line_table(down, up))
