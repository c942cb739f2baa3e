"""A shape given another colour."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.palette import pick_color
from edittools.synth.shapes import box, draw_thing, pick_thing

TASK = "color"
LOCAL = True
INVERSE = "shape_color"
INSTRUCTION = {
    "en": [
        "{change|set} the color of <that_thing> to <new_color>",
        "{recolor|repaint|color|paint} <that_thing> [in] <new_color>",
        "{make|turn} <that_thing> <new_color>",
    ],
    "zh": [
        "<ba><that_thing>{变成|改成|改为|涂成|染成}<new_color>",
        "<ba><that_thing>的颜色{改成|换成|改为}<new_color>",
    ],
}
DETAIL = {
    "en": ["the <shape> <place> is {<new_color> instead of <color>|no longer <color> but <new_color>}"],
    "zh": ["<place>的<shape>{不再是<color>，而是<new_color>|由<color>变为<new_color>}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(image, rng)
    where = box(thing["place"], thing["size"], *image.shape[:2])
    return thing | {"new_color": pick_color(image, where, rng, avoid=(thing["color"],))}


def invert_slots(slots: dict) -> dict:
    return slots | {"color": slots["new_color"], "new_color": slots["color"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_thing(image, slots), target=draw_thing(image, invert_slots(slots)))
