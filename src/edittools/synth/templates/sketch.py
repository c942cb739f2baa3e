"""Pencil drawing: the luma divided by a blurred copy of itself ("colour dodge") leaves the lines."""

import numpy as np

from edittools.synth.core import Tools, no_slots
from edittools.synth.pixels import gaussian, luma, short_side, to_byte

TASK = "style"
LOCAL = False
INSTRUCTION = {
    "en": [
        ("{turn|convert|change|transform} <whole> into a {pencil sketch|pencil drawing|black-and-white pencil sketch}"),
        "{redraw|render|draw} <whole> {as a pencil sketch|as a pencil drawing|in pencil on white paper}",
        "make <whole> look like {a pencil sketch|a pencil drawing}",
    ],
    "zh": [
        "<ba><whole>{变成|转成|画成|转换为}{铅笔素描|铅笔画|黑白素描}[风格]",
        "用{铅笔素描|铅笔画}的{风格|方式|形式}{重新绘制|重画|表现}<whole>",
    ],
}
DETAIL = {
    "en": ["only {outlines|lines} and soft {pencil shading|gray shading} are left, on white"],
    "zh": ["白底上只剩{线条|轮廓}和淡淡的{铅笔|灰色}明暗"],
}
EFFECT = {
    "en": r"\bsketch|\bpencil",
    "zh": "素描|铅笔",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    level = luma(image)
    around = gaussian(level, max(1.0, short_side(image) / 40)).astype(np.int32)
    drawn = to_byte(level.astype(np.int32) * 255 // np.maximum(around, 1))
    return np.repeat(drawn[..., None], 3, axis=-1)
