"""More contrast: every value moves away from middle grey (128) by a factor."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import line_table

TASK = "adjust"
LOCAL = False
INVERSE = "flatten"
FACTORS = {"slight": (5, 4), "medium": (8, 5), "strong": (9, 4)}
INSTRUCTION = {
    "en": [
        "<strength:adverb> {increase|raise|boost} the contrast of <whole>",
        "{increase|raise|turn up} the contrast of <whole> <strength>",
        "give <whole> <strength:comparative> more contrast",
        "make <whole> <strength:comparative> {more contrasty|higher in contrast}",
    ],
    "zh": [
        "<strength>{提高|增强|加大|增加}<whole>的{对比度|反差|明暗对比}",
        "<ba><whole>的{对比度|反差}<strength>{调高|提高|增强}",
        "{让|使}<whole>的{对比|反差}<strength:comparative>更强",
    ],
}
DETAIL = {
    "en": [
        (
            "{dark|shadowy} areas get <strength:comparative> darker and {bright|light} areas "
            "<strength:comparative> lighter"
        ),
    ],
    "zh": ["暗处<strength:comparative>更暗，亮处<strength:comparative>更亮"],
}
EFFECT = {
    "en": r"\b(?:increas|rais|boost|turn\w* up|more|higher|stronger)\w*\b[^.]*\bcontrast|\bcontrasty\b",
    "zh": "(?:提高|增强|加大|增加)[^。]*(?:对比|反差)|(?:对比|反差)[^。]*(?:更强|提高|增强|调高)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return line_table(*FACTORS[slots["strength"]], pivot=128)[image]
