"""A blurred image made sharp again: the inverse of blur."""

import numpy as np

from edittools.synth.core import Pair, Tools, draw_strength
from edittools.synth.templates import blur

TASK = "lowlevel"
LOCAL = False
INVERSE = "blur"
INSTRUCTION = {
    "en": [
        "remove the <strength:degree> blur from <picture>",
        "{deblur|restore} {the|this} <strength:adverb> blurred {picture|image|photo} [to its sharp state]",
        (
            "{restore|recover|bring back} the {detail|sharp detail} of {the|this} <strength:adverb> blurred "
            "{picture|image|photo}"
        ),
    ],
    "zh": [
        "{去除|去掉|消除}<picture>{里的|中的}<strength:degree>模糊",
        "{还原|恢复}这张<strength>模糊的{照片|图片|图像}的{清晰度|细节}",
        "<ba>这张<strength>模糊的{照片|图片|图像}{变清晰|恢复清晰|还原清楚}",
    ],
}
DETAIL = {
    "en": [
        ("the <strength:degree> blur is {gone|removed}: edges are crisp and {fine|small} detail is {visible|back}"),
    ],
    "zh": ["<strength:degree>模糊{消失|被去除}，边缘清楚，细节{可见|恢复}"],
}
EFFECT = {
    "en": r"\bdeblur|\bsharpen|\b(?:remov|restor|recover|bring|undo|fix|clear)\w*\b[^.]*\b(?:blur|detail|sharp)",
    "zh": "(?:去除|去掉|消除)[^。]*模糊|还原|恢复|变清晰",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=blur.apply(image, slots, tools), target=image)
