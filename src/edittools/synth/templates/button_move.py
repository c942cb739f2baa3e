"""A button moved to another of the nine places: a change of the layout alone."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.interface import draw_button, pick_button
from edittools.synth.shapes import PLACES

TASK = "motion"
LOCAL = True
INVERSE = "button_move"
INSTRUCTION = {
    "en": [
        '{move|shift|relocate} the <plate_color> {button "<text>"|"<text>" button} <place> to <to_place:spot>',
        '{take|pick up} the <plate_color> button {labeled|that says} "<text>" <place> and {put|place} it <to_place>',
    ],
    "zh": [
        "<ba><place>的<plate_color>“<text>”按钮{移到|移动到|挪到|放到}<to_place>",
        "{让|使}<place>写着“<text>”的<plate_color>按钮{移动到|移到|挪到}<to_place>",
    ],
}
DETAIL = {
    "en": [
        (
            'the button "<text>" is no longer <place> but <to_place>; {the picture shows where it was|its old place '
            "shows the picture}"
        ),
    ],
    "zh": ["“<text>”按钮从<place>{移到了|来到了}<to_place>，原处露出{画面|背景}"],
}
EFFECT = {
    "en": r"\b(?:mov|shift|relocat|take|pick|put|plac)",
    "zh": "移|挪|放",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    button = pick_button(image, rng, tools)
    return button | {"to_place": draw(rng, [place for place in PLACES if place != button["place"]])}


def invert_slots(slots: dict) -> dict:
    return slots | {"place": slots["to_place"], "to_place": slots["place"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(draw_button(image, slots, tools), draw_button(image, invert_slots(slots), tools))
