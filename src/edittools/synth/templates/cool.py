"""Cooler colours: blue is multiplied by a gain and red divided by it; the mirror image of warm."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import line_table, per_channel
from edittools.synth.templates.warm import GAINS

TASK = "tone"
LOCAL = False
INVERSE = "warm"
INSTRUCTION = {
    "en": [
        "{make|turn} {the colors|the tones|the color temperature} of <picture> <strength:comparative> cooler",
        "{make|turn} <whole> <strength:comparative> cooler [in tone|in color]",
        "<strength:adverb> {cool down|cool} {the colors|the tones|the white balance} of <picture>",
    ],
    "zh": [
        "<ba><whole>{的色调|的颜色|的色温|}<strength>{调冷|变冷|调得偏冷}",
        "{让|使}<whole>{的色调|的颜色|}<strength>{变冷|更冷|偏冷}",
    ],
}
DETAIL = {
    "en": [
        "blues {get|become|are} <strength:comparative> stronger and reds <strength:comparative> weaker",
    ],
    "zh": ["蓝色<strength>增强，红色<strength>减弱"],
}
EFFECT = {
    "en": r"\bcool",
    "zh": "冷",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    up, down = GAINS[slots["strength"]]
    return per_channel(image, line_table(down, up), line_table(1, 1), line_table(up, down))
