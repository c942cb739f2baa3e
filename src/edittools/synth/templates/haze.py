"""Even haze: t v + (1 - t) A, with airlight A a light bluish grey and transmission t."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import line_table, per_channel

TASK = "lowlevel"
LOCAL = False
INVERSE = "dehaze"
AIRLIGHT = (225, 228, 232)
TRANSMISSIONS = {"slight": (3, 4), "medium": (1, 2), "strong": (3, 10)}  # t as a fraction
INSTRUCTION = {
    "en": [
        "{cover|fill|veil} <whole> with <strength:degree> {haze|fog|mist}",
        "add <strength:degree> {haze|fog|mist} [evenly] to <whole>",
        "make <whole> <strength:intensity> {hazy|foggy|misty}",
    ],
    "zh": [
        "{给|为}<whole>{加上|添加|蒙上}<strength:degree>{雾气|薄雾|雾霾|雾}[效果]",
        "{让|使}<whole>{笼罩|蒙}上<strength:degree>{雾气|雾霾|雾}",
    ],
}
DETAIL = {
    "en": ["an even, <strength:degree> light-gray veil {lies over|covers} everything and contrast is lower"],
    "zh": ["{整个画面|全图}{均匀|}蒙上<strength:degree>浅灰色{雾|雾气}，对比降低"],
}
EFFECT = {
    "en": r"\A(?!.*\b(?:remov|clear|dehaz)).*\b(?:haz|fog|mist)",
    "zh": r"\A(?!.*去).*雾",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    numerator, denominator = TRANSMISSIONS[slots["strength"]]
    # t v + (1 - t) A is a line of slope t through the point (A, A)
    return per_channel(image, *(line_table(numerator, denominator, pivot=a) for a in AIRLIGHT))
