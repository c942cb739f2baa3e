"""Inverts red alone."""

import numpy as np

from edittools.synth.core import Tools, no_slots

TASK = "tone"
LOCAL = False
INVERSE = "negative_red"  # done twice it is undone
INSTRUCTION = {
    "en": ["invert {the red channel|only the reds} of <picture>"],
    "zh": ["<ba><whole>的红色{反转|取反}"],
}
DETAIL = {
    "en": ["what was red has lost it, and the rest has become {red|reddish}"],
    "zh": ["红色{变成|成为}其反色"],
}
EFFECT = {
    "en": r"\binver",
    "zh": "反转|取反",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    """uint8 HxWx3 -> the exact target."""
    target = image.copy()
    target[..., 0] = 255 - target[..., 0]
    return target
