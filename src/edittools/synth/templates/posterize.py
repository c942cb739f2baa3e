"""Few flat tones: every channel goes to the nearest of n evenly spaced levels."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.pixels import RAMP, to_byte

TASK = "style"
LOCAL = False
LEVELS = ("2", "3", "4", "6")
INSTRUCTION = {
    "en": [
        "posterize <whole> {to|with} <levels> {levels|tones} per {channel|color channel}",
        "{reduce|limit} <whole> to <levels> {levels|tones} per {channel|color channel}[, like a poster]",
        "give <whole> a poster look with <levels> {levels|tones} per {channel|color channel}",
    ],
    "zh": [
        "<ba><whole>{色调分离|海报化}为每通道<levels>{级|个色阶|级色阶}",
        "{让|使}<whole>每个{颜色通道|通道}只{剩下|保留|有}<levels>{级|个}色阶[，像海报一样]",
    ],
}
DETAIL = {
    "en": ["smooth shading {breaks up into|turns into} flat areas with <levels> levels per channel"],
    "zh": ["平滑的渐变变成{色块|平涂色块}，每通道<levels>级"],
}
EFFECT = {
    "en": r"\bposteri[sz]|\bposter look\b|\blike a poster\b|\b(?:levels|tones) per\b",
    "zh": "色调分离|海报|色阶|通道",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"levels": draw(rng, LEVELS)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    steps = int(slots["levels"]) - 1
    table = to_byte(((RAMP * steps * 2 + 255) // 510 * 255 * 2 + steps) // (2 * steps))
    return table[image]
