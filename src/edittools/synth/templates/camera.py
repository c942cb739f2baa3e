"""The camera goes round a figure: drawn by a renderer, the row's photograph behind it."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import camera_moved, figure_slots, other_side, view_of

TASK = "viewpoint"
LOCAL = False
RENDERED = True
INVERSE = "camera"
INSTRUCTION = {
    "en": [
        "{move|swing|take} the camera <degrees> degrees {round|around} {the figure|the person} to the <side>",
        "{show|view} {the figure|the person} from <degrees> degrees further {round|around} to the <side>",
    ],
    "zh": [
        "<ba>{镜头|相机|视角}绕{人物|小人}向<side>{移动|转动|转}<degrees>度",
        "{让|使}{镜头|相机|视角}绕着{人物|小人}向<side>{移|转}<degrees>度",
    ],
}
DETAIL = {
    "en": ["{the figure|the person} is seen from <degrees> degrees further to the <side>"],
    "zh": ["从更靠<side><degrees>度的位置看{人物|小人}"],
}
KEEPS = {
    "en": ["the {figure|person} with {its|the} pose and clothes and the light {stay|remain} {the same|as they are}"],
    "zh": ["{人物|小人}的姿势、衣服和光线{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return figure_slots(rng) | {"side": draw(rng, ("left", "right")), "degrees": draw(rng, ("20", "30", "40"))}


invert_slots = other_side


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return camera_moved(view_of(slots), image, slots)
