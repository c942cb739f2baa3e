"""Summer again: the inverse of autumn."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.foliage import SEASON_KEEPS, autumnal, season_slots, season_told

TASK = "tone"
LOCAL = False
INVERSE = "autumn"
INSTRUCTION = {
    "en": [
        "{change|turn} the season {in|of} <picture> [from {autumn|fall}] to summer",
        "make it summer in <picture>",
        "{bring|call} summer back to the {autumn|fall} {leaves and grass|leaves} in <picture>",
        "{turn|make} <picture> {summery|a summer scene}",
    ],
    "zh": [
        "<ba><picture>{里的|中的}季节{改成|换成|变成}夏天",
        "{让|使}<picture>{里|中}的秋天{草木|枝叶}{变回|变成}夏天的样子",
    ],
}
DETAIL = {
    "en": [
        "{leaves and grass|everything that grows} {are|stand} {fresh and green|green} {as in summer|in summer colors}"
    ],
    "zh": ["{草木|枝叶}{呈现|恢复}夏天的绿色"],
}
EFFECT = season_told(
    {"en": "summer", "zh": "夏"},
    {"en": r"autumn|fall\b|spring|winter", "zh": "秋|春|冬"},
)
KEEPS = SEASON_KEEPS

slots = season_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=autumnal(image), target=image)
