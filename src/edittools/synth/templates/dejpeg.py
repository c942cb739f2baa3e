"""JPEG artefacts taken away again: the inverse of jpeg."""

import numpy as np

from edittools.synth.core import Pair, Tools, draw_strength
from edittools.synth.templates import jpeg

TASK = "lowlevel"
LOCAL = False
INVERSE = "jpeg"
INSTRUCTION = {
    "en": [
        (
            "{remove|clean up|repair} the <strength:degree> JPEG {compression artifacts|artifacts|"
            "blockiness} {from|in} <picture>"
        ),
        "{undo|repair} the <strength:degree> JPEG compression {damage|loss} {of|in} <picture>",
    ],
    "zh": [
        "{去除|去掉|消除|修复}<picture>{里的|中的}<strength:degree>JPEG{压缩痕迹|压缩失真|块效应}",
        "{修复|还原}<picture>因JPEG压缩造成的<strength:degree>{失真|块状痕迹|损失}",
    ],
}
DETAIL = {
    "en": ["the <strength:degree> {square blocks|blocks} and ripples are {gone|removed} and surfaces are smooth"],
    "zh": ["<strength:degree>方块和波纹{消失|被去除}，画面平滑"],
}
EFFECT = {
    "en": r"\b(?:remov|clean|repair|undo|fix|reduc)\w*\b[^.]*(?:jpeg|artifact|compression|block)",
    "zh": "(?:去除|去掉|消除|修复|还原)[^。]*(?:JPEG|压缩|块)",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=jpeg.apply(image, slots, tools), target=image)
