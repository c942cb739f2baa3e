"""A card with a title and lines of text, as pages lay it over an image."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.interface import draw_card, pick_card

TASK = "add"
LOCAL = True
INVERSE = "card_remove"
INSTRUCTION = {
    "en": [
        (
            '{add|put|place} a <plate_color> {card|text card} {titled|with the title} "<text>" '
            "and <color> lines of text <place>"
        ),
        (
            "{lay|insert} <place> a <plate_color> {card|text card} with <color> writing "
            '{headed|under the title} "<text>"'
        ),
    ],
    "zh": [
        "在<place>{添加|加上|放置|放}一张<plate_color>{卡片|文字卡片}，标题{是|为}<color>的“<text>”",
        "{给|为}<picture>的<place>{加上|添加}一张标题为<color>“<text>”的<plate_color>{卡片|文字卡片}",
    ],
}
DETAIL = {
    "en": ['a <plate_color> card with the <color> title "<text>" and lines of text {is|appears} <place>'],
    "zh": ["<place>出现一张<plate_color>卡片，有<color>标题“<text>”和文字行"],
}
EFFECT = {
    "en": r"\b(?:add|put|plac|lay|insert|appear)",
    "zh": "加|放|出现",
}

slots = pick_card


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return draw_card(image, slots, tools)
