"""Negative: every channel value v becomes 255 - v."""

import numpy as np

from edittools.synth.core import Tools, no_slots

TASK = "color"
LOCAL = False
INVERSE = "invert"
INSTRUCTION = {
    "en": [
        "{invert|reverse} {the|all} colors of <picture>",
        "{turn|convert|change} <whole> into {a negative|a color negative|its negative}",
        "make <whole> {look like a photographic negative|a color negative}",
    ],
    "zh": [
        "<ba><whole>{的颜色|的色彩|}{反转|反相|取反}",
        "<ba><whole>{变成|转成|做成}{负片|底片|反色}[效果]",
        "{反转|颠倒}<picture>的{所有颜色|全部颜色|颜色}",
    ],
}
DETAIL = {
    "en": ["{bright|light} areas become dark, dark areas become {bright|light}, and each color its complement"],
    "zh": ["{亮处变暗，暗处变亮|明暗互换}，每种颜色变成它的补色"],
}
EFFECT = {
    "en": r"\binver|\brevers|\bnegative\b",
    "zh": "反转|反相|取反|负片|底片|反色|颠倒",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return 255 - image
