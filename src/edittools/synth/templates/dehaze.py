"""Haze taken away again: the inverse of haze."""

import numpy as np

from edittools.synth.core import Pair, Tools, draw_strength
from edittools.synth.templates import haze

TASK = "lowlevel"
LOCAL = False
INVERSE = "haze"
INSTRUCTION = {
    "en": [
        "{remove|clear|take away} the <strength:degree> {haze|fog|mist} {from|in} <picture>",
        "{dehaze|clear up} {the|this} <strength:adverb> hazy {picture|image|photo}",
        "make {the|this} <strength:adverb> hazy {picture|image|photo} {clear|free of haze}",
    ],
    "zh": [
        "{去除|去掉|消除|清除}<picture>{里的|中的}<strength:degree>{雾气|雾霾|雾}",
        "{给|对}<picture>去雾，{去除|消除}<strength:degree>{雾气|雾霾|雾}",
    ],
}
DETAIL = {
    "en": [
        (
            "the <strength:degree> {light-gray|whitish} veil is gone; {colors and contrast|contrast and "
            "colors} are {back|full again}"
        ),
    ],
    "zh": ["<strength:degree>浅灰色{雾气|雾}{消失|散去}，颜色和对比{恢复|还原}"],
}
EFFECT = {
    "en": r"\bdehaz|\bclear|\b(?:hazy|foggy|misty)\b[^.]*\bfree\b|\b(?:remov|take|lift)\w*\b[^.]*\b(?:haz|fog|mist)",
    "zh": "去雾|(?:去除|去掉|消除|清除)[^。]*雾",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=haze.apply(image, slots, tools), target=image)
