"""One of the user's meshes turns about its upright axis: drawn by a renderer, the row's photograph behind it."""

from dataclasses import replace

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import mesh_slots, mesh_view, other_side, render

TASK = "motion"
LOCAL = True
RENDERED = True
INVERSE = "mesh_turn"
INSTRUCTION = {
    "en": [
        "{turn|rotate|spin} the {object|thing} to the <side> by <degrees> degrees",
        "{turn|rotate|spin} the {object|thing} to the <side>, <degrees> degrees",
        "{make|let} the {object|thing} face <degrees> degrees further to the <side>",
    ],
    # not 向右转, which is said of a picture that is turned clockwise
    "zh": ["<ba>物体朝<side>{转|旋转|转动|转过}<degrees>度", "{让|使|令}物体朝<side>{转|旋转|转动|转过}<degrees>度"],
}
DETAIL = {
    "en": ["the {object|thing} {has turned|is turned} to the <side> by <degrees> degrees"],
    "zh": ["物体朝<side>{转了|转过}<degrees>度"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    side, degrees = draw(rng, ("left", "right")), draw(rng, ("30", "45", "60", "90"))
    return mesh_slots(rng, tools) | {"side": side, "degrees": degrees}


def invert_slots(slots: dict) -> dict:
    turned = int(slots["degrees"]) * (1 if slots["side"] == "right" else -1)
    return other_side(slots) | {"facing": slots["facing"] + turned}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    before = mesh_view(slots, tools)
    after = replace(before, turn=invert_slots(slots)["facing"])
    return Pair(render(before, image), render(after, image))
