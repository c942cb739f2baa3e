"""Unsharp mask: the difference from a blurred copy (radius 1/64 of the short side) is added."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import gaussian, short_side, to_byte

TASK = "lowlevel"
LOCAL = False
AMOUNTS = {"slight": (1, 1), "medium": (2, 1), "strong": (4, 1)}
INSTRUCTION = {
    "en": [
        "<strength:adverb> sharpen <whole>",
        "{sharpen|crispen} <whole> <strength>",
        "make <whole> <strength:comparative> {sharper|crisper}",
        "{increase|raise|turn up} the sharpness of <picture> <strength>",
    ],
    "zh": [
        "<ba><whole><strength>{锐化|变锐利|变清晰}",
        "<strength>{提高|增强|增加}<whole>的{锐度|清晰度|锐利程度}",
        "{让|使}<whole>的{边缘|细节}<strength:comparative>更锐利",
    ],
}
DETAIL = {
    "en": ["edges and {fine detail|textures} stand out <strength:comparative> more"],
    "zh": ["边缘和{细节|纹理}<strength:comparative>更加突出"],
}
EFFECT = {
    "en": r"\b(?:sharp|crisp)",
    "zh": "锐|清晰",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    numerator, denominator = AMOUNTS[slots["strength"]]
    values = image.astype(np.int64)
    detail = values - gaussian(image, max(1.0, short_side(image) / 64))
    return to_byte(values + detail * numerator // denominator)
