"""A button with a label, as pages and apps lay it over an image."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.interface import draw_button, pick_button

TASK = "add"
LOCAL = True
INVERSE = "button_remove"
INSTRUCTION = {
    "en": [
        (
            "{add|put|place} a <plate_color> {button|rounded button} {labeled|that says|with the label} "
            '"<text>" in <color> letters <place>'
        ),
        '{lay|insert} <place> a <plate_color> {button|rounded button} {reading|saying} "<text>" in <color>',
    ],
    "zh": [
        "在<place>{添加|加上|放置|放}一个<plate_color>{按钮|圆角按钮}，{写着|文字为}<color>的“<text>”",
        "{给|为}<picture>的<place>{加上|添加}一个写有<color>“<text>”的<plate_color>{按钮|圆角按钮}",
    ],
}
DETAIL = {
    "en": ['a <plate_color> button {labeled|that says} "<text>" in <color> letters {is|appears} <place>'],
    "zh": ["<place>出现一个写有<color>“<text>”的<plate_color>按钮"],
}
EFFECT = {
    "en": r"\b(?:add|put|plac|lay|insert|appear)",
    "zh": "加|放|出现",
}

slots = pick_button


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return draw_button(image, slots, tools)
