"""The label of a button replaced; place, colours and font stay."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.interface import LABELS, draw_button, pick_button

TASK = "text"
LOCAL = True
INVERSE = "button_text"
INSTRUCTION = {
    "en": [
        '{change|turn} the {label|text} "<old_text>" on the <plate_color> button <place> {to|into} "<new_text>"',
        '{replace|swap} "<old_text>" on the <plate_color> button <place> with "<new_text>"',
        'make the <plate_color> button <place> {say|read} "<new_text>" instead of "<old_text>"',
    ],
    "zh": [
        "<ba><place><plate_color>按钮上的“<old_text>”{改成|换成|改为|替换为}“<new_text>”",
        "{让|使}<place><plate_color>按钮上的{文字|字}由“<old_text>”{变成|变为}“<new_text>”",
    ],
}
DETAIL = {
    "en": ['the button <place> {reads|says} "<new_text>" where it {read|said} "<old_text>"'],
    "zh": ["<place>的按钮上{写着|是}“<new_text>”，不再是“<old_text>”"],
}
EFFECT = {
    "en": r"\b(?:chang|turn|replac|swap|instead|say|read)",
    "zh": "改|换|变",
}
KEEPS = {
    "en": ["the button, its colors and its font {stay|remain} the same, and so does the rest of the picture"],
    "zh": ["按钮、颜色和字体以及画面其余部分{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    button = pick_button(image, rng, tools)
    old = button.pop("text")
    return button | {"old_text": old, "new_text": draw(rng, [text for text in LABELS if text != old])}


def invert_slots(slots: dict) -> dict:
    return slots | {"old_text": slots["new_text"], "new_text": slots["old_text"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(
        draw_button(image, slots | {"text": slots["old_text"]}, tools),
        draw_button(image, slots | {"text": slots["new_text"]}, tools),
    )
