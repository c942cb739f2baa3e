"""A word written on the image, in Latin letters."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.lettering import pick_text, write_text

TASK = "text"
LOCAL = True
INVERSE = "text_remove"
INSTRUCTION = {
    "en": [
        '{write|add|put|insert} the {word|text} "<text>" in <size> <color> letters <place>',
        '{write|add|put|insert} "<text>" <place>, in <size> <color> {letters|lettering}',
    ],
    "zh": [
        "在<place>{写上|添加|加上|放上}<size><color>{文字|字样|字}“<text>”",
        "用<size><color>字在<place>{写上|写下|加上|标上}“<text>”",
    ],
}
DETAIL = {
    "en": ['the {word|text} "<text>" {stands|can be read} <place>, in <size> <color> letters'],
    "zh": ["<place>{出现|可以看到}<size><color>{文字|字样}“<text>”"],
}
EFFECT = {
    "en": r"\b(?:writ|add|put|insert|appear)",
    "zh": "写|加|放|标|出现",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_text(image, rng, tools, "latin")


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return write_text(image, slots, tools)
