"""Brighter by a gamma curve: v becomes 255 (v/255)^g, so black and white stay where they are."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import gamma_table

TASK = "adjust"
LOCAL = False
INVERSE = "darken"
GAMMAS = {"slight": (3, 4), "medium": (1, 2), "strong": (1, 3)}  # g as a fraction
INSTRUCTION = {
    "en": [
        "<strength:adverb> {brighten|lighten} [up] <whole>",
        "{brighten|lighten} <whole> <strength>",
        "make <whole> <strength:comparative> {brighter|lighter}",
        "{raise|increase|turn up} the {brightness|exposure} of <picture> <strength>",
    ],
    "zh": [
        "<ba><whole><strength>{调亮|提亮|变亮}",
        "<strength>{提高|增加|调高}<whole>的{亮度|曝光}",
        "{让|使}<whole><strength>变亮",
    ],
}
DETAIL = {
    "en": [
        (
            "all {tones|areas}, most of all the {midtones|middle tones}, are <strength:comparative> "
            "lighter, while pure black and pure white stay {as they are|put}"
        ),
    ],
    "zh": ["整体<strength>变亮，中间调变化最大，纯黑和纯白{不变|保持原样}"],
}
EFFECT = {
    "en": (
        r"\b(?:brighten|lighten|brighter|lighter)"
        r"|\b(?:rais|increas|boost|turn\w* up)\w*\b[^.]*\b(?:brightness|exposure)"
    ),
    "zh": "调亮|提亮|变亮|更亮|(?:提高|增加|调高)[^。]*(?:亮度|曝光)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return gamma_table(*GAMMAS[slots["strength"]])[image]
