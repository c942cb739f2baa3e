"""A shape moved to another of the nine places."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import PLACES, draw_thing, pick_thing

TASK = "motion"
LOCAL = True
INVERSE = "move"
INSTRUCTION = {
    "en": [
        "{move|shift|bring|relocate} <that_thing> to <to_place:spot>",
        "{take|pick up} <that_thing> and {put|place} it <to_place>",
    ],
    "zh": [
        "<ba><that_thing>{移到|移动到|挪到|放到|搬到}<to_place>",
        "{让|使}<that_thing>{移动到|移到|跑到}<to_place>",
    ],
}
DETAIL = {
    "en": [
        (
            "the <thing> is no longer <place> but <to_place>; {the picture shows where it was|its old place "
            "shows the picture}"
        ),
    ],
    "zh": ["<thing>从<place>{移到了|来到了}<to_place>，原处露出{画面|背景}"],
}
EFFECT = {
    "en": r"\b(?:mov|shift|bring|relocat|take|pick|put|plac)",
    "zh": "移|挪|放|搬|跑",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(image, rng)
    return thing | {"to_place": draw(rng, [place for place in PLACES if place != thing["place"]])}


def invert_slots(slots: dict) -> dict:
    return slots | {"place": slots["to_place"], "to_place": slots["place"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_thing(image, slots), target=draw_thing(image, invert_slots(slots)))
