"""A card taken off the image: the inverse of card."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.interface import draw_card, pick_card

TASK = "remove"
LOCAL = True
INVERSE = "card"
INSTRUCTION = {
    "en": [
        '{remove|delete|take away} the <plate_color> {card "<text>"|"<text>" card} <place>',
        '{get rid of|clear away} the <plate_color> card {titled|with the title} "<text>" <place>',
    ],
    "zh": [
        "{移除|删除|去掉|删掉}<place>的<plate_color>“<text>”卡片",
        "<ba><place>标题为“<text>”的<plate_color>卡片{移除|删除|去掉|删掉}",
    ],
}
DETAIL = {
    "en": ['the card "<text>" is gone and {what was behind it|the picture behind it} {shows|can be seen}'],
    "zh": ["“<text>”卡片{消失|不见}，露出{后面|被遮住}的画面"],
}
EFFECT = {
    "en": r"\b(?:remov|delet|tak|rid|clear|gone)",
    "zh": "移除|删|去掉|消失|不见",
}

slots = pick_card


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_card(image, slots, tools), target=image)
