"""A plain shape of a named colour and size at one of nine places."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.shapes import draw_thing, pick_thing

TASK = "add"
LOCAL = True
INVERSE = "remove"
INSTRUCTION = {
    "en": [
        "{add|draw|paint|put|place|insert} a <thing> <place>",
        "{add|draw|paint|put|place|insert} a <size> <shape> <place>, {in <color>|colored <color>}",
    ],
    "zh": [
        "{在|请在|于}<place>{添加|加上|画|放|绘制|放置}一个<thing>",
        "{添加|加上|画上}一个<thing>，{位置在|放在}<place>",
    ],
}
DETAIL = {
    "en": ["a {plain|solid|uniformly colored} <thing> {is|appears} <place>, {covering|on top of} what was there"],
    "zh": ["<place>出现一个{纯色的|实心的|}<thing>，{盖住|遮住}原来的内容"],
}
EFFECT = {
    "en": r"\b(?:add|draw|paint|put|plac|insert|appear|now there|there is)",
    "zh": "加|画|放|绘|置|出现|新增",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_thing(image, rng)


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return draw_thing(image, slots)
