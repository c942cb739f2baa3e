"""A button taken off the image: the inverse of button."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.interface import draw_button, pick_button

TASK = "remove"
LOCAL = True
INVERSE = "button"
INSTRUCTION = {
    "en": [
        '{remove|delete|take away} the <plate_color> {button "<text>"|"<text>" button} <place>',
        '{get rid of|clear away} the <plate_color> button {labeled|that says} "<text>" <place>',
    ],
    "zh": [
        "{移除|删除|去掉|删掉}<place>的<plate_color>“<text>”按钮",
        "<ba><place>写着“<text>”的<plate_color>按钮{移除|删除|去掉|删掉}",
    ],
}
DETAIL = {
    "en": ['the button "<text>" is gone and {what was behind it|the picture behind it} {shows|can be seen}'],
    "zh": ["“<text>”按钮{消失|不见}，露出{后面|被遮住}的画面"],
}
EFFECT = {
    "en": r"\b(?:remov|delet|tak|rid|clear|gone)",
    "zh": "移除|删|去掉|消失|不见",
}

slots = pick_button


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=draw_button(image, slots, tools), target=image)
