"""More vivid colours: every channel's distance from the luma is multiplied by a factor."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import saturation

TASK = "adjust"
LOCAL = False
INVERSE = "desaturate"
FACTORS = {"slight": (4, 3), "medium": (9, 5), "strong": (5, 2)}
INSTRUCTION = {
    "en": [
        "<strength:adverb> {increase|raise|boost} the {saturation|color saturation} of <whole>",
        "{increase|raise|turn up} the saturation of <whole> <strength>",
        "make the colors of <whole> <strength:comparative> {more vivid|more saturated|richer}",
    ],
    "zh": [
        "<strength>{提高|增强|增加|调高}<whole>的{饱和度|色彩饱和度|颜色鲜艳度}",
        "{让|使}<whole>的{颜色|色彩}<strength:comparative>{更鲜艳|更饱和|更浓郁}",
    ],
}
DETAIL = {
    "en": [
        (
            "{colors|hues} {are|get} <strength:comparative> more intense, grays {stay gray|remain gray} and "
            "brightness {is kept|stays}"
        ),
    ],
    "zh": ["颜色<strength:comparative>更浓，灰色{不变|仍为灰色}，亮度{不变|保持}"],
}
EFFECT = {
    "en": r"\b(?:increas|rais|boost|turn\w* up|more|higher)\w*\b[^.]*\bsaturat|\bvivid|\bricher\b|\bmore intense",
    "zh": "(?:提高|增强|增加|调高)[^。]*(?:饱和|鲜艳)|更鲜艳|更饱和|更浓",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return saturation(image, *FACTORS[slots["strength"]])
