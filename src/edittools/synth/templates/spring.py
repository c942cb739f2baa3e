"""Spring: the snow melts; the inverse of winter."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.foliage import SEASON_KEEPS, season_slots, season_told, wintry

TASK = "tone"
LOCAL = False
INVERSE = "winter"
INSTRUCTION = {
    "en": [
        "{change|turn} the season {in|of} <picture> [from winter] to spring",
        "make it spring in <picture>",
        "{melt|thaw} the snow in <picture> {so that it is spring|and let it be spring}",
        "{turn|make} [the winter in] <picture> {springlike|a spring scene}",
    ],
    "zh": [
        "<ba><picture>{里的|中的}季节{改成|换成|变成}春天",
        "{让|使}<picture>{里|中}的{雪|积雪}{融化|化掉}，{变成|迎来}春天",
    ],
}
DETAIL = {
    "en": [
        "the snow {is gone|has melted}, {leaves and grass|plants} are green and colors {full|warm} again, as in spring"
    ],
    "zh": ["{雪|积雪}{融化|不见}了，{草木|枝叶}{返青|变绿}，{像|如}春天一样"],
}
_SPRING = season_told(
    {"en": "spring", "zh": "春"},
    {"en": "winter|summer|autumn", "zh": "冬|夏|秋"},
)
EFFECT = {
    "en": rf"{_SPRING['en']}|\b(?:melt|thaw)|\bsnow\b[^.]*\bgone",
    "zh": f"{_SPRING['zh']}|融|化掉",
}
KEEPS = SEASON_KEEPS

slots = season_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=wintry(image), target=image)
