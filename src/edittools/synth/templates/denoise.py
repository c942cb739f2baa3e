"""Grain taken away again: the inverse of noise."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.templates import noise

TASK = "lowlevel"
LOCAL = False
INVERSE = "noise"
INSTRUCTION = {
    "en": [
        "{remove|clean up|take away} the <strength:degree> {noise|grain|color noise} {from|in} <picture>",
        "{denoise|clean} {the|this} <strength:adverb> {noisy|grainy} {picture|image|photo}",
        "{make|get} {the|this} <strength:adverb> noisy {picture|image|photo} {clean|free of noise}",
    ],
    "zh": [
        "{去除|去掉|消除|清除}<picture>{里的|中的}<strength:degree>{噪点|噪声|颗粒}",
        "{给|对}<picture>{降噪|去噪}，{去除|消除}<strength:degree>{噪点|噪声}",
    ],
}
DETAIL = {
    "en": ["the <strength:degree> {specks are|grain is} gone and {surfaces are|everything is} clean"],
    "zh": ["<strength:degree>噪点{消失|被清除}，画面干净"],
}
EFFECT = {
    "en": (
        r"\bdenois|\b(?:remov|clean|take|reduc|free of)\w*\b[^.]*\b(?:nois|grain|speck)"
        r"|\b(?:noisy|grainy)\b[^.]*\b(?:clean|free)"
    ),
    "zh": "降噪|去噪|(?:去除|去掉|消除|清除)[^。]*(?:噪|颗粒)",
}

slots = noise.slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(source=noise.apply(image, slots, tools), target=image)
