"""Light on one of the user's meshes comes from the other side: drawn by a renderer, the row's photograph behind it."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import FROM, light_moved, mesh_slots, mesh_view, other_side

TASK = "tone"
LOCAL = False
RENDERED = True
INVERSE = "mesh_light"
INSTRUCTION = {
    "en": [
        "{move|shift} the {light|sun|lamp} {over |}to the <side> {side|of the scene}",
        "{light|illuminate} {the scene|the object|the thing} from the <side> [side]",
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
    "en": ["the {object|thing} and the camera {stay|remain} {the same|as they are}"],
    "zh": ["物体和相机位置{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return mesh_slots(rng, tools) | {"side": draw(rng, tuple(FROM))}


invert_slots = other_side


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    return light_moved(mesh_view(slots, tools), image, slots)
