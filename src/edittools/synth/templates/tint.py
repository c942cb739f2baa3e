"""A single named colour in all its shades: black to the colour to white, along the luma."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.palette import rgb
from edittools.synth.pixels import RAMP, luma, to_byte

TASK = "color"
LOCAL = False
TINTS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown")
INSTRUCTION = {
    "en": [
        "{tint|tone} <whole> <color>, {with no other color|in this one color only}",
        ("{turn|convert|change} <whole> into {a <color> monochrome|shades of <color> only|a <color>-toned monochrome}"),
        "{recolor|color} <whole> in {shades of <color> only|nothing but <color> tones}",
    ],
    "zh": [
        "<ba><whole>{变成|转成|改成|调成}{单一的<color>调|<color>单色|只有<color>的单色调}[的]图",
        "{只用|仅用}<color>{的深浅|的明暗|色调}{重新|}{表现|呈现|渲染}<whole>",
    ],
}
DETAIL = {
    "en": [
        ("every tone becomes a {shade|tone} of <color>: dark ones {nearly black|blackish}, light ones nearly white"),
    ],
    "zh": ["所有{色调|颜色}都变成<color>的深浅变化：暗处近黑，亮处近白"],
}
EFFECT = {
    "en": r"\b(?:tint|ton(?:e|ed|es)|monochrom|shades|only)",
    "zh": "单一|单色|色调|深浅|明暗",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"color": draw(rng, TINTS)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    color = rgb(slots["color"]).astype(np.int64)
    level = RAMP[:, None]
    dark = color * level // 128
    light = color + (255 - color) * (level - 128) // 127
    return to_byte(np.where(level < 128, dark, light))[luma(image)]
