"""A round badge with one letter taken off the image: the inverse of logo."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.templates import logo

TASK = "remove"
LOCAL = True
INVERSE = "logo"
INSTRUCTION = {
    "en": [
        '{remove|delete|erase} the [round] <plate_color> {logo|badge} with the {letter|capital} "<letter>" <place>',
        '{take|wipe} the [round] <plate_color> "<letter>" {logo|badge} <place> off <picture>',
    ],
    "zh": [
        "{移除|删除|去掉|擦除}<place>带字母“<letter>”的<plate_color>[圆形]{标志|徽标|徽章}",
        "<ba><place>的<plate_color>[圆形]“<letter>”{标志|徽标|徽章}{移除|删除|去掉|擦掉}",
    ],
}
DETAIL = {
    "en": ['the badge with the "<letter>" is gone and {what was behind it|the picture behind it} {shows|can be seen}'],
    "zh": ["带“<letter>”的徽章{消失|不见}，露出{后面|被遮住}的画面"],
}
EFFECT = {
    "en": r"\b(?:remov|delet|eras|wip|tak|gone)",
    "zh": "移除|删|去掉|擦|消失|不见",
}

slots = logo.slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=logo.apply(image, slots, tools), target=image)
