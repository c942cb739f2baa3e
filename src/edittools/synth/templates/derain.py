"""Rain taken away again: the inverse of rain."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.templates import rain

TASK = "lowlevel"
LOCAL = False
INVERSE = "rain"
INSTRUCTION = {
    "en": [
        "{remove|clear away|take away} the <strength:degree> {rain|falling rain|rain streaks} {from|in} <picture>",
        "{derain|clean up} {the|this} <strength:adverb> rainy {picture|image|photo}",
        "{make|get} {the|this} <strength:adverb> rainy {picture|image|photo} {clear|free of rain}",
    ],
    "zh": [
        "{去除|去掉|消除|清除}<picture>{里的|中的}<strength:degree>{雨|雨丝|雨水|雨痕}",
        "{给|对}<picture>去雨，{去除|消除}<strength:degree>{雨丝|雨痕}",
    ],
}
DETAIL = {
    "en": ["the <strength:degree> streaks of rain are gone and {the view is|everything is} clear"],
    "zh": ["<strength:degree>雨丝{消失|不见}，画面{清楚|清晰}"],
}
EFFECT = rain.GONE
KEEPS = {
    "en": ["everything behind the rain {stays|remains} {the same|as it is}"],
    "zh": ["雨后面的{一切|画面}{保持不变|不变}"],
}

slots = rain.slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=rain.apply(image, slots, tools), target=image)
