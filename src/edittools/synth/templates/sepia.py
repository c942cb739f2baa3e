"""Sepia, with the matrix that image editors commonly use (Microsoft's, in thousandths)."""

import numpy as np

from edittools.synth.core import Tools, no_slots
from edittools.synth.pixels import to_byte

TASK = "tone"
LOCAL = False
MATRIX = np.array([[393, 769, 189], [349, 686, 168], [272, 534, 131]])  # rows: R, G, B of the target
INSTRUCTION = {
    "en": [
        "give <whole> {a sepia tone|a sepia tint|an old sepia look}",
        "{turn|convert|change} <whole> {to|into} sepia [tones]",
        "apply {a sepia filter|a sepia effect|sepia toning} to <whole>",
        "make <whole> {sepia|sepia-toned|look like an old sepia print}",
    ],
    "zh": [
        "<ba><whole>{变成|转成|改成|调成}{棕褐色调|怀旧的棕褐色|复古棕褐色}",
        "{给|为}<whole>{加上|添加|应用}{棕褐色滤镜|复古棕褐色效果|怀旧棕褐色调}",
    ],
}
DETAIL = {
    "en": [
        (
            "every color becomes a {brownish|yellow-brown} shade {of the same brightness|as light or dark "
            "as before}, as in {an old photograph|an aged print}"
        ),
    ],
    "zh": ["所有颜色都变成{深浅不同|明暗不一}的棕褐色，像{老照片|旧照片}一样"],
}
EFFECT = {
    "en": r"\bsepia",
    "zh": "棕褐|怀旧",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return to_byte((image.astype(np.int64) @ MATRIX.T + 500) // 1000)
