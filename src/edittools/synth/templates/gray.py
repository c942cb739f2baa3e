"""Black and white: every channel becomes the Rec. 601 luma."""

import numpy as np

from edittools.synth import pixels
from edittools.synth.core import Tools, no_slots

TASK = "tone"
LOCAL = False
INVERSE = "colorize"
INSTRUCTION = {
    "en": [
        "{convert|turn|change} <whole> {to|into} {black and white|grayscale|shades of gray}",
        "make <whole> {black and white|grayscale|monochrome gray}",
        "{remove|drop|take out} all {color|the color} from <whole>",
    ],
    "zh": [
        "<ba><whole>{变成|转成|转换为|改为}{黑白|灰度|黑白灰}[的]{图|照片|图片}",
        "<ba><whole>{处理|调整|改}成{黑白|灰度}{效果|色调}",
        "{去掉|去除|移除}<picture>{里|中}的{所有颜色|全部色彩}，[让它]变成黑白",
    ],
}
DETAIL = {
    "en": [
        (
            "only {shades of gray|gray tones} {remain|are left}, each {as bright|just as bright} as the "
            "color it replaces"
        ),
    ],
    "zh": ["{只剩下|只保留}灰色调，{明暗|亮度}与原来的颜色一致"],
}
EFFECT = {
    "en": (
        r"\bblack[- ]and[- ]white\b|\bgr[ae]yscale\b|\bmonochrome\b|\bshades of gr[ae]y\b"
        r"|\b(?:remov|drop|take|without)\w*\b[^.]*\bcolou?r"
    ),
    "zh": "黑白|灰度|(?:去掉|去除|移除)[^。]*(?:颜色|色彩)",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return pixels.gray(image)
