"""A structured layout: a piece cut out of the image stays, the plain background behind it changes."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.backdrops import paint_backdrop, pick_backdrop
from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import stencil

TASK = "background"
LOCAL = True
INVERSE = "background"
CUTOUTS = ("square", "circle", "diamond", "triangle")
INSTRUCTION = {
    "en": [
        "{replace|swap} the background {around|behind} the <shape:cutout> with a <backdrop>",
        "{change|turn} the background {around|behind} the <shape:cutout> {into|to} a <backdrop>",
        "{put|set|place} the <shape:cutout> {on|in front of} a <backdrop>",
    ],
    "zh": [
        "<ba><shape:cutout>{后面|背后|周围}的背景{换成|改成|替换为|变成}<backdrop>",
        "{给|为}<shape:cutout>{换上|换成|换一个}<backdrop>",
        "<ba><shape:cutout>{放在|置于|放到}<backdrop>{上|前}",
    ],
}
DETAIL = {
    "en": ["behind the <shape:cutout> there is now a <backdrop>"],
    "zh": ["<shape:cutout>后面{现在是|变成了}<backdrop>"],
}
EFFECT = {
    "en": r"\bback(?:ground|drop)|\bbehind\b|\bin front of\b",
    "zh": "背景|后面|背后",
}
KEEPS = {
    "en": ["the <shape:cutout> itself {stays|remains} {exactly as it is|untouched}"],
    "zh": ["<shape:cutout>本身{完全不变|保持不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    old = pick_backdrop(rng)
    new = pick_backdrop(rng, avoid=(old["new_color"],))
    return {"shape": draw(rng, CUTOUTS), "old": old} | new


def invert_slots(slots: dict) -> dict:
    new = {key: slots[key] for key in ("backdrop", "new_color", "second_color") if key in slots}
    return {"shape": slots["shape"], "old": new} | slots["old"]


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    height, width = image.shape[:2]
    side = min(height, width) * 7 // 10
    top, left = (height - side) // 2, (width - side) // 2
    inside = np.zeros((height, width, 1), bool)
    inside[top : top + side, left : left + side, 0] = stencil(slots["shape"], side)
    source = np.where(inside, image, paint_backdrop(slots["old"], height, width))
    return Pair(source, np.where(inside, image, paint_backdrop(slots, height, width)))
