"""Darker by the reciprocal gamma of brighten."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import gamma_table
from edittools.synth.templates.brighten import GAMMAS

TASK = "adjust"
LOCAL = False
INVERSE = "brighten"
INSTRUCTION = {
    "en": [
        "<strength:adverb> {darken|dim} <whole>",
        "{darken|dim} <whole> <strength>",
        "make <whole> <strength:comparative> {darker|dimmer}",
        "{lower|reduce|turn down} the {brightness|exposure} of <picture> <strength>",
    ],
    "zh": [
        "<ba><whole><strength>{调暗|压暗|变暗}",
        "<strength>{降低|减少|调低}<whole>的{亮度|曝光}",
        "{让|使}<whole><strength>变暗",
    ],
}
DETAIL = {
    "en": [
        (
            "all {tones|areas}, most of all the {midtones|middle tones}, are <strength:comparative> darker, "
            "while pure black and pure white stay {as they are|put}"
        ),
    ],
    "zh": ["整体<strength>变暗，中间调变化最大，纯黑和纯白{不变|保持原样}"],
}
EFFECT = {
    "en": r"\b(?:dark|dim)|\b(?:lower|reduc|decreas|turn\w* down)\w*\b[^.]*\b(?:brightness|exposure)",
    "zh": "调暗|压暗|变暗|更暗|(?:降低|减少|调低)[^。]*(?:亮度|曝光)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    numerator, denominator = GAMMAS[slots["strength"]]
    return gamma_table(denominator, numerator)[image]
