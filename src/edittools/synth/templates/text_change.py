"""The word on a sign, in Latin letters, replaced; box, colours and font stay."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.lettering import pick_sign, write_sign

TASK = "text"
LOCAL = True
INVERSE = "text_change"
INSTRUCTION = {
    "en": [
        ('{change|turn} the {word|text} "<old_text>" [on the <plate_color> sign] <place> {to|into} "<new_text>"'),
        '{replace|swap} "<old_text>" on the <plate_color> sign <place> with "<new_text>"',
        'make the <plate_color> sign <place> {say|read} "<new_text>" instead of "<old_text>"',
    ],
    "zh": [
        "<ba><place>{的|那块}[<plate_color>]{牌子|标牌}上的“<old_text>”{改成|换成|改为|替换为}“<new_text>”",
        "{让|使}<place>{的|那块}[<plate_color>]{牌子|标牌}上的{文字|字}由“<old_text>”{变成|变为}“<new_text>”",
    ],
}
DETAIL = {
    "en": ['the sign <place> {reads|says} "<new_text>" where it {read|said} "<old_text>"'],
    "zh": ["<place>的牌子上{写着|是}“<new_text>”，不再是“<old_text>”"],
}
EFFECT = {
    "en": r"\b(?:chang|turn|replac|swap|instead|say|read)",
    "zh": "改|换|变",
}
KEEPS = {
    "en": ["the sign, its colors and its font {stay|remain} the same, and so does the rest of the picture"],
    "zh": ["牌子、颜色和字体以及画面其余部分{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_sign(image, rng, tools, "latin")


def invert_slots(slots: dict) -> dict:
    return slots | {"old_text": slots["new_text"], "new_text": slots["old_text"]}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return Pair(
        write_sign(image, slots, slots["old_text"], tools),
        write_sign(image, slots, slots["new_text"], tools),
    )
