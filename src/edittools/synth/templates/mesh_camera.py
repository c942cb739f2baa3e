"""The camera goes round one of the user's meshes: drawn by a renderer, the row's photograph behind it."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import camera_moved, mesh_slots, mesh_view, other_side

TASK = "viewpoint"
LOCAL = False
RENDERED = True
INVERSE = "mesh_camera"
INSTRUCTION = {
    "en": [
        "{move|swing|take} the camera <degrees> degrees {round|around} the {object|thing} to the <side>",
        "{show|view} the {object|thing} from <degrees> degrees further {round|around} to the <side>",
    ],
    "zh": [
        "<ba>{镜头|相机|视角}绕物体朝<side>{移动|转动|转}<degrees>度",
        "{让|使}{镜头|相机|视角}绕着物体朝<side>{移|转}<degrees>度",
    ],
}
DETAIL = {
    "en": ["the {object|thing} is seen from <degrees> degrees further to the <side>"],
    "zh": ["从更靠<side><degrees>度的位置看物体"],
}
KEEPS = {
    "en": ["the {object|thing} and the light {stay|remain} {the same|as they are}"],
    "zh": ["物体和光线{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return mesh_slots(rng, tools) | {"side": draw(rng, ("left", "right")), "degrees": draw(rng, ("20", "30", "40"))}


invert_slots = other_side


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return camera_moved(mesh_view(slots, tools), image, slots)
