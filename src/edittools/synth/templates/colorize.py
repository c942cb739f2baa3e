"""The colours of a black-and-white image restored: the inverse of gray."""

import numpy as np

from edittools.synth import pixels
from edittools.synth.core import Pair, Tools, no_slots

TASK = "lowlevel"
LOCAL = False
INVERSE = "gray"
INSTRUCTION = {
    "en": [
        ("{colorize|color} {the|this} {black-and-white|grayscale|gray} {picture|image|photo} [with natural colors]"),
        "{restore|bring back|recover} the {natural|original} colors of <picture>",
        ("{turn|make} {the|this} {black-and-white|grayscale} {picture|photo} {into a color one|colorful again}"),
    ],
    "zh": [
        "{给|为}{这张|这幅}{黑白|灰度}{照片|图片}{上色|着色|添加自然的颜色}",
        "{恢复|还原|找回}<picture>{的|原来的|自然的}{颜色|色彩}",
        "<ba>{这张|这幅}{黑白|灰度}{照片|图片}{变成|转成|还原成}彩色[的]",
    ],
}
DETAIL = {
    "en": ["the gray tones {get|regain} {their|the} natural colors, with brightness {unchanged|as it was}"],
    "zh": ["灰色调{恢复|还原}为自然的颜色，{亮度|明暗}不变"],
}
EFFECT = {
    "en": (
        r"\bcolou?ri[sz]|\bcolou?r (?:the|this)\b"
        r"|\b(?:restor|bring|recover|regain|get|add|give)\w*\b[^.]*\bcolou?rs?\b"
        r"|\binto a colou?r\b|\bcolou?rful\b|\bin colou?r\b"
    ),
    "zh": "上色|着色|彩色|(?:恢复|还原|找回|添加)[^。]*(?:颜色|色彩)",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=pixels.gray(image), target=image)
