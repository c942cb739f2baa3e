"""A shape made larger or smaller where it stands."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import draw_thing, pick_other_size, pick_thing

TASK = "adjust"
LOCAL = True
INVERSE = "resize"
INSTRUCTION = {
    "en": [
        "{change|turn} <that_thing> into a <new_size> one",
        "{make|redraw} <that_thing> <new_size>",
        "{change|adjust|set} the size of <that_thing> {from <size> to <new_size>|to <new_size>}",
    ],
    "zh": [
        "<ba><that_thing>{变成|改成|调整为|缩放成}<new_size>",
        "<ba><that_thing>的{大小|尺寸}{改成|调整为|变成}<new_size>",
    ],
}
DETAIL = {
    "en": [
        ("the <color> <shape> <place> {is now|has become} <new_size>, {about the same center|in the same place}"),
    ],
    "zh": ["<place>的<color><shape>变成<new_size>，{中心|位置}不变"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(image, rng)
    return thing | {"new_size": pick_other_size(thing, image, rng)}


def invert_slots(slots: dict) -> dict:
    return slots | {"size": slots["new_size"], "new_size": slots["size"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_thing(image, slots), target=draw_thing(image, invert_slots(slots)))
