"""A shape lifted out of the image onto plain white, where it stood."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.palette import VISIBLE_DISTANCE, distance, pick_color
from edittools.synth.shapes import box, draw_thing, pick_thing

TASK = "extract"
LOCAL = False
INSTRUCTION = {
    "en": [
        "{extract|isolate|cut out} <that_thing> {onto|on} a {plain|pure} white background",
        "{keep|show} only <that_thing> and make {everything else|all the rest} {plain|pure} white",
        "{separate|lift} <that_thing> from <picture> and {put|show} it on {plain|pure} white",
    ],
    "zh": [
        "<ba><that_thing>{提取|抠|分离}出来，放在{纯白|白色}背景上",
        "{只|仅}{保留|留下}<that_thing>，其余部分{变成|改成|全部变为}{纯白|白色}",
    ],
}
DETAIL = {
    "en": [
        ("the <thing> stands <place> on {plain|pure} white, {and nothing else is left|with everything else gone}"),
    ],
    "zh": ["<thing>仍在<place>，其余部分{全是|都是}纯白"],
}
EFFECT = {
    "en": (
        r"\b(?:extract|isolat|cut\w* out|separat|lift)|\b(?:keep|show)\b[^.]*\bonly\b|\bonly\b[^.]*\bwhite\b"
        r"|\bon(?:to)? (?:a )?(?:plain |pure )*white\b"
    ),
    "zh": "提取|抠|分离|保留|留下|[纯白]白",
}
KEEPS = {
    "en": ["the <shape> keeps its {color, size and place|place, size and color}"],
    "zh": ["<shape>的颜色、大小和位置{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    thing = pick_thing(image, rng)
    if distance(thing["color"], "white") < VISIBLE_DISTANCE:
        where = box(thing["place"], thing["size"], *image.shape[:2])
        thing["color"] = pick_color(image, where, rng, avoid=("white",))
    return thing


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(draw_thing(image, slots), draw_thing(np.full_like(image, 255), slots))
