"""A word in Latin letters taken off the image: the inverse of text_add."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.lettering import pick_text, write_text

TASK = "text"
LOCAL = True
INVERSE = "text_add"
INSTRUCTION = {
    "en": [
        '{remove|delete|erase} the [<color>] {word|text|lettering} "<text>" <place>',
        '{take|wipe} the [<color>] {word|text|lettering} "<text>" <place> off <picture>',
    ],
    "zh": [
        "{移除|删除|去掉|擦除}<place>的[<color>]{文字|字样|字}“<text>”",
        "<ba><place>的[<color>]{文字|字样|字}“<text>”{移除|删除|去掉|擦掉}",
    ],
}
DETAIL = {
    "en": ['the {word|text} "<text>" is gone and {what was behind it|the picture behind it} {shows|can be seen}'],
    "zh": ["文字“<text>”{消失|不见}，露出{后面|被遮住}的画面"],
}
EFFECT = {
    "en": r"\b(?:remov|delet|eras|wip|tak|gone|clear)",
    "zh": "移除|删|去掉|擦|消失|不见",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_text(image, rng, tools, "latin")


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=write_text(image, slots, tools), target=image)
