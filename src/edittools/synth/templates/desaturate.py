"""Paler colours: every channel's distance from the luma is divided by the factor of saturate."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import saturation
from edittools.synth.templates.saturate import FACTORS

TASK = "adjust"
LOCAL = False
INVERSE = "saturate"
INSTRUCTION = {
    "en": [
        "<strength:adverb> {decrease|lower|reduce} the {saturation|color saturation} of <whole>",
        "{decrease|lower|turn down} the saturation of <whole> <strength>",
        "make the colors of <whole> <strength:comparative> {paler|less saturated|more muted}",
    ],
    "zh": [
        "<strength>{降低|减弱|减少|调低}<whole>的{饱和度|色彩饱和度|颜色鲜艳度}",
        "{让|使}<whole>的{颜色|色彩}<strength>{变淡|变得不那么饱和|变得柔和}",
    ],
}
DETAIL = {
    "en": [
        (
            "{colors|hues} {are|get} <strength:comparative> less intense, grays {stay gray|remain gray} and "
            "brightness {is kept|stays}"
        ),
    ],
    "zh": ["颜色<strength>变淡，灰色{不变|仍为灰色}，亮度{不变|保持}"],
}
EFFECT = {
    "en": (
        r"\bdesaturat|\b(?:decreas|lower|reduc|turn\w* down|less)\w*\b[^.]*\bsaturat|\bpaler?\b|\bmuted\b"
        r"|\bless (?:vivid|intense)"
    ),
    "zh": "(?:降低|减弱|减少|调低)[^。]*(?:饱和|鲜艳)|变淡|不那么饱和|变得柔和",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    numerator, denominator = FACTORS[slots["strength"]]
    return saturation(image, denominator, numerator)
