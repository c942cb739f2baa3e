"""The mirror image, left and right exchanged."""

import numpy as np

from edittools.synth.core import Tools, no_slots

TASK = "viewpoint"
LOCAL = False
INVERSE = "flip"
INSTRUCTION = {
    "en": [
        "{flip|mirror} <whole> {horizontally|left to right|from left to right}",
        "{swap|exchange} the left and right {sides|halves} of <picture> by mirroring {it|the whole}",
        "{turn|convert|change} <whole> into its {mirror image|left-right mirror image}",
    ],
    "zh": [
        "<ba><whole>{水平|左右}{翻转|镜像|镜像翻转}",
        "{对|给}<whole>{做|进行}{水平|左右}{翻转|镜像}",
        "{左右|水平}{翻转|镜像}<whole>",
    ],
}
DETAIL = {
    "en": ["what was on the left is now on the right, and {the other way round|vice versa}"],
    "zh": ["原来在左边的现在在右边，{反之亦然|右边的到了左边}"],
}
EFFECT = {
    "en": r"\A(?!.*(?:vertical|upside)).*(?:flip|mirror|swap|exchang)",
    "zh": r"\A(?!.*(?:垂直|竖直|上下[翻颠镜])).*(?:翻转|镜像)",
}
KEEPS = {
    "en": ["{colors|all colors}, {top and bottom|up and down} {stay|remain} {the same|as they are}"],
    "zh": ["颜色和上下位置{保持不变|不变}"],
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return image[:, ::-1].copy()
