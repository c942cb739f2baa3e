"""The light comes from the other side: a figure drawn by a renderer, the row's photograph behind it."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import FROM, figure_slots, light_moved, other_side, view_of

TASK = "tone"
LOCAL = False
RENDERED = True
INVERSE = "light"
INSTRUCTION = {
    "en": [
        "{move|shift} the {light|sun|lamp} {over |}to the <side> {side|of the scene}",
        "{light|illuminate} {the scene|the figure|the person} from the <side> [side]",
        "{let|make} the {light|sunlight} {come|fall} from the <side>",
    ],
    "zh": [
        "<ba>{光源|光线|太阳}{移到|换到|改到}<side>{侧|边}",
        "{让|使}{光|光线|阳光}从<side>{侧|边}{照来|照过来|射来}",
    ],
}
DETAIL = {
    "en": ["light falls from the <side>, and shadows lie on the other side"],
    "zh": ["光从<side>侧照来，影子落在另一侧"],
}
KEEPS = {
    "en": ["the {figure|person} with {its|the} pose and the camera {stay|remain} {the same|as they are}"],
    "zh": ["{人物|小人}的姿势和相机位置{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return figure_slots(rng) | {"side": draw(rng, tuple(FROM))}


invert_slots = other_side


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return light_moved(view_of(slots), image, slots)
