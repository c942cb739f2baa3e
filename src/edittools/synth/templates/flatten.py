"""Less contrast: every value moves towards middle grey (128) by the reciprocal factor of contrast."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import line_table
from edittools.synth.templates.contrast import FACTORS

TASK = "adjust"
LOCAL = False
INVERSE = "contrast"
INSTRUCTION = {
    "en": [
        "<strength:adverb> {decrease|lower|reduce} the contrast of <whole>",
        "{decrease|lower|turn down} the contrast of <whole> <strength>",
        "give <whole> <strength:comparative> less contrast",
        "make <whole> <strength:comparative> {flatter|lower in contrast}",
    ],
    "zh": [
        "<strength>{降低|减弱|减小|调低}<whole>的{对比度|反差|明暗对比}",
        "<ba><whole>的{对比度|反差}<strength>{调低|降低|减弱}",
        "{让|使}<whole>的{对比|反差}<strength>变弱",
    ],
}
DETAIL = {
    "en": [
        "{dark|shadowy} and {bright|light} areas {come|move} <strength:comparative> closer to middle gray",
    ],
    "zh": ["暗处和亮处都<strength>向中灰靠拢"],
}
EFFECT = {
    "en": r"\b(?:decreas|lower|reduc|turn\w* down|less)\w*\b[^.]*\bcontrast|\bflatt",
    "zh": "(?:降低|减弱|减小|调低)[^。]*(?:对比|反差)|(?:对比|反差)[^。]*(?:弱|调低|降低)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    numerator, denominator = FACTORS[slots["strength"]]
    return line_table(denominator, numerator, pivot=128)[image]
