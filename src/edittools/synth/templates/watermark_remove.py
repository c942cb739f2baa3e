"""A repeated watermark taken away again: the inverse of watermark."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.templates import watermark

TASK = "remove"
LOCAL = False
INVERSE = "watermark"
INSTRUCTION = {
    "en": [
        ('{remove|erase|delete|clean off} the [repeated] [white] "<text>" {watermark|watermarks} {from|on} <picture>'),
        ('{get rid of|take away} the [repeated] [white] {watermark|watermarks} "<text>" {covering|over} <picture>'),
    ],
    "zh": [
        "{去除|去掉|移除|清除}<picture>上的[重复的]“<text>”水印",
        "<ba><picture>上{铺满|重复}的“<text>”水印{去掉|去除|清除|擦除}",
    ],
}
DETAIL = {
    "en": ['the word "<text>" no longer lies over the picture, which is {clear|unobstructed}'],
    "zh": ["“<text>”字样不再覆盖画面，画面{清楚|干净}"],
}
EFFECT = {
    "en": r"\b(?:remov|eras|delet|clean|rid|take away)\w*\b.*\bwatermark|\bwatermark\b.*\b(?:gone|removed)",
    "zh": "(?:去|移除|清除|擦).*水印|水印.*(?:去|移除|清除|擦)",
}
KEEPS = {
    "en": ["the picture {beneath|underneath} {stays|remains} {the same|as it is}"],
    "zh": ["水印下面的画面{保持不变|不变}"],
}

slots = watermark.slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=watermark.apply(image, slots, tools), target=image)
