"""Collage: a piece of the image, cut out in a shape, pasted again at another of the nine places."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.shapes import PLACES, SIZES, box, fill, pick_shape

TASK = "creative"
LOCAL = True
INSTRUCTION = {
    "en": [
        "copy a <size> <shape> out of <picture> <from_place> and {paste|glue|stick} it <place>",
        "{copy|duplicate} a <size> <shape> of {the picture|the image} <from_place> and paste it <place>",
    ],
    "zh": [
        "<ba>{画面|图片}<from_place>的<size><shape>区域{复制|拷贝}[一份]{到|，粘贴到}<place>",
        "从<from_place>{剪下|复制|截取}一块<size><shape>[画面]，{粘贴|贴|放}到<place>",
    ],
}
DETAIL = {
    "en": ["a <size> <shape> <place> repeats the piece of the picture <from_place>"],
    "zh": ["<place>的<size><shape>区域重复了<from_place>的画面"],
}
EFFECT = {
    "en": r"\bcop(?:y|ied|ies)|\bduplicat|\brepeat",
    "zh": "复制|拷贝|剪|截|粘贴|重复",
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    size, place = draw(rng, tuple(SIZES)), draw(rng, PLACES)
    where = box(place, size, *image.shape[:2])
    return {
        "size": size,
        "shape": pick_shape(where[2] - where[0], rng),
        "place": place,
        "from_place": draw(rng, [other for other in PLACES if other != place]),
    }


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    x0, y0, x1, y1 = box(slots["from_place"], slots["size"], *image.shape[:2])
    return fill(image, slots, image[y0:y1, x0:x1])
