"""A shape taken away again: the inverse of add, so what comes to light is the true image."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import draw_thing, pick_thing

TASK = "remove"
LOCAL = True
INVERSE = "add"
INSTRUCTION = {
    "en": [
        "{remove|delete|erase|take away|get rid of} <that_thing>",
        "{make|let} <that_thing> {disappear|vanish}",
    ],
    "zh": [
        "{移除|删除|去掉|擦除|去除}<that_thing>",
        "<ba><that_thing>{移除|删除|去掉|擦掉|抹去}",
    ],
}
DETAIL = {
    "en": ["the <thing> <place> is gone and {what was behind it|the picture behind it} {shows|can be seen}"],
    "zh": ["<place>的<thing>{消失|不见}，露出{后面|被遮住}的画面"],
}
EFFECT = {
    "en": r"\b(?:remov|delet|eras|tak\w+ away|get\w* rid|disappear|vanish|gone)",
    "zh": "移除|删|去掉|去除|擦|抹|消失|不见",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_thing(image, rng)


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_thing(image, slots), target=image)
