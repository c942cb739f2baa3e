"""Autumn: everything green turns golden, orange and brown, pixel for pixel."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.foliage import SEASON_KEEPS, autumnal, season_slots, season_told

TASK = "tone"
LOCAL = False
INVERSE = "summer"
INSTRUCTION = {
    "en": [
        "{change|turn} the season {in|of} <picture> to {autumn|fall}",
        "make it {autumn|fall} in <picture>",
        "{give|lend} {leaves and grass|the leaves|everything that grows} in <picture> {autumn|fall} colors",
        "{turn|make} <picture> {autumnal|an autumn scene}",
    ],
    "zh": [
        "<ba><picture>{里的|中的}季节{改成|换成|变成}秋天",
        "{让|使}<picture>{里|中}的{草木|枝叶和草地|树叶和草}{变成|换上|染上}秋天的颜色",
    ],
}
DETAIL = {
    "en": ["what was green {glows|is} in the {golden and rusty|warm} colors of {autumn|fall}"],
    "zh": ["原来绿色的{草木|枝叶}{呈现|变成}{金黄和棕褐|秋天}的颜色"],
}
EFFECT = season_told(
    {"en": r"autumn|fall\b", "zh": "秋"},
    {"en": "summer|spring|winter", "zh": "夏|春|冬"},
)
KEEPS = SEASON_KEEPS

slots = season_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return autumnal(image)
