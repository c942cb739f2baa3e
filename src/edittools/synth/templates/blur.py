"""Gaussian blur; the radius is a share of the short side, so it looks the same at every size."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import gaussian, short_side

TASK = "lowlevel"
LOCAL = False
INVERSE = "deblur"
SHARES = {"slight": 64, "medium": 32, "strong": 16}  # radius = short side / this
INSTRUCTION = {
    "en": [
        "<strength:adverb> blur <whole>",
        "{blur|soften} <whole> <strength> [with a Gaussian blur]",
        "make <whole> <strength:intensity> {blurry|out of focus}",
        "apply a <strength:degree> {blur|Gaussian blur} to <whole>",
    ],
    "zh": [
        "<ba><whole><strength>{模糊|模糊化|变模糊}",
        "{给|对}<whole>{加上|应用|施加}<strength:degree>{模糊|高斯模糊}[效果]",
        "{让|使}<whole><strength>{失焦|变模糊}",
    ],
}
DETAIL = {
    "en": [
        (
            "{fine detail|small detail} {is lost|disappears} and all edges are <strength:comparative> "
            "{softer|less sharp}"
        ),
    ],
    "zh": ["{细节|细部}消失，边缘<strength>变柔和"],
}
EFFECT = {
    "en": r"\A(?!.*(?:deblur|remov|restor|recover|sharpen|crisp|bring back)).*(?:blur|soften|softer|out of focus)",
    "zh": r"\A(?!.*(?:去|消除|恢复|还原)).*(?:模糊|失焦|柔)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return gaussian(image, short_side(image) / SHARES[slots["strength"]])
