"""The camera goes round a figure: drawn by a renderer, the row's photograph behind it."""

from dataclasses import replace

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import figure_slots, render, view_of

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


def invert_slots(slots: dict) -> dict:
    return slots | {"side": "right" if slots["side"] == "left" else "left"}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    # Half of the way before the middle and half behind it, so that the way back is drawn alike.
    half = int(slots["degrees"]) / 2 * (1 if slots["side"] == "right" else -1)
    view = view_of(slots)
    return Pair(render(replace(view, camera=-half), image), render(replace(view, camera=half), image))
