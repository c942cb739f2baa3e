"""An object shown on white placed on a described background; swapped, it is an extract."""

import numpy as np

from edittools.synth.backdrops import paint_backdrop, pick_backdrop
from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import draw_thing, pick_thing

TASK = "visual"
LOCAL = False
INVERSE = "extract"
INSTRUCTION = {
    "en": [
        "{place|put|set|show} the <color> <shape> [of this picture] {on|in front of} a <backdrop>",
        ("{use|take} the <color> <shape> {of|from} this picture and {place|put|set} it {on|in front of} a <backdrop>"),
    ],
    "zh": [
        "<ba>{图中的|这个|画面中的}<color><shape>{放在|置于|放到}<backdrop>{上|前}",
        "{以|用}{图中的|这个}<color><shape>为主体，{放在|置于}<backdrop>{上|前}",
    ],
}
DETAIL = {
    "en": ["the <color> <shape> stands on a <backdrop> instead of white"],
    "zh": ["<color><shape>的背景{不再是白色|由白色}，{而是|变为}<backdrop>"],
}
EFFECT = {
    "en": r"\bback(?:ground|drop)",
    "zh": "背景",
}
KEEPS = {
    "en": ["the <shape> keeps its {color, size and place|place, size and color}"],
    "zh": ["<shape>的颜色、大小和位置{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(np.full_like(image, 255), rng)
    # the shape must stand out from both colours of the background, and the background from the white
    return thing | pick_backdrop(rng, avoid=(thing["color"], "white"))


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    white = np.full_like(image, 255)
    return Pair(draw_thing(white, slots), draw_thing(paint_backdrop(slots, *image.shape[:2]), slots))
