"""Winter: snow lies on everything green, and colours are cold and pale."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.foliage import SEASON_KEEPS, season_slots, season_told, wintry

TASK = "tone"
LOCAL = False
INVERSE = "spring"
INSTRUCTION = {
    "en": [
        "{change|turn} the season {in|of} <picture> to winter",
        "make it {winter|a snowy winter} in <picture>",
        "{cover|blanket} {leaves and grass|the leaves|everything that grows} in <picture> with {snow|winter snow}",
        "{turn|make} <picture> {wintry|a winter scene} [with snow]",
    ],
    "zh": [
        "<ba><picture>{里的|中的}季节{改成|换成|变成}冬天",
        "{让|使}<picture>{里|中}的{草木|枝叶和草地|树叶和草}{盖上|铺满|落满}{雪|冬天的雪|积雪}",
    ],
}
DETAIL = {
    "en": ["{snow lies on what was green|what was green is under snow} and {colors are cold and pale|it looks cold}"],
    "zh": ["原来绿色的{草木|枝叶}{落满|盖着}白雪，色调{清冷|偏冷}"],
}
_WINTER = season_told(
    {"en": "wint|snow", "zh": "冬|雪"},
    {"en": "spring|summer|autumn", "zh": "春|夏|秋"},
)
EFFECT = {  # unless it is the snow that goes
    "en": (
        r"\A(?!.*(?:\b(?:remov\w*|melt\w*|thaw\w*|clear(?:ing)?(?: away| off)?) (?:all |the |this |of )*snow"
        rf"|\bsnow\b[^.,;]*\b(?:gone|melt|thaw))).*?(?:{_WINTER['en']})"
    ),
    "zh": rf"\A(?!.*(?:融|化掉|化开|(?:去除|去掉|除去|清除|移除|扫)[^。，；]*雪|去雪)).*?(?:{_WINTER['zh']})",
}
KEEPS = SEASON_KEEPS

slots = season_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return wintry(image)
