"""One shape replaced by another, of another colour, at the same place and of the same size."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.palette import pick_color
from edittools.synth.shapes import box, draw_thing, pick_shape, pick_thing

TASK = "replace"
LOCAL = True
INVERSE = "replace"
INSTRUCTION = {
    "en": [
        "{replace|substitute} <that_thing> {with|by} a <new_color> <new_shape> [of the same size]",
        "{swap|exchange|trade} <that_thing> for a <new_color> <new_shape> [of the same size]",
        "{turn|transform|change} <that_thing> into a <new_color> <new_shape> [of the same size]",
    ],
    "zh": [
        "<ba><that_thing>{替换成|换成|改成|替换为|变成}[同样大小的]<new_color><new_shape>",
        "用[同样大小的]<new_color><new_shape>{替换|代替|取代}<that_thing>",
    ],
}
DETAIL = {
    "en": [
        (
            "where the <color> <shape> was, <place>, there is now a <new_color> <new_shape> {just as large|"
            "of equal size}"
        ),
    ],
    "zh": ["<place>原来的<color><shape>变成{同样大小|一样大}的<new_color><new_shape>"],
}
EFFECT = {
    "en": r"\b(?:replac|substitut|swap|exchang|trad|turn|transform|chang|instead|becom)",
    "zh": "替换|换|改|变|代替|取代",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(image, rng)
    where = box(thing["place"], thing["size"], *image.shape[:2])
    return thing | {
        "new_color": pick_color(image, where, rng, avoid=(thing["color"],)),
        "new_shape": pick_shape(where[2] - where[0], rng, avoid=(thing["shape"],)),
    }


def invert_slots(slots: dict) -> dict:
    swapped = {"color": slots["new_color"], "shape": slots["new_shape"]}
    return slots | swapped | {"new_color": slots["color"], "new_shape": slots["shape"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_thing(image, slots), target=draw_thing(image, invert_slots(slots)))
