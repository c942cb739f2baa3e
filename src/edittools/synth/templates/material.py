"""A plain shape given a material: wood, stone, brick, checkered tiles or brushed metal."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.backdrops import MATERIALS, material
from edittools.synth.core import Pair, Tools
from edittools.synth.shapes import draw_thing, fill, pick_thing, side_of

TASK = "material"
LOCAL = True
INSTRUCTION = {
    "en": [
        "{make|build} <that_thing> {of|out of|from} <material>",
        "{change|set} the material of <that_thing> {to|into} <material>",
        "give <that_thing> {a texture|a surface|the texture} of <material>",
    ],
    "zh": [
        "<ba><that_thing>{变成|改成|换成|做成}<material>{材质|质感}[的]",
        "{给|为}<that_thing>{换上|加上|添加}<material>{材质|纹理}",
    ],
}
DETAIL = {
    "en": ["the <shape> <place> looks {made|as if made} of <material> instead of plain <color>"],
    "zh": ["<place>的<shape>呈现<material>{材质|质感}，不再是纯<color>"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_thing(image, rng) | {"size": "large", "material": draw(rng, MATERIALS)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    texture = material(slots["material"], side_of(slots["size"], *image.shape[:2]))
    return Pair(draw_thing(image, slots), fill(image, slots, texture))
