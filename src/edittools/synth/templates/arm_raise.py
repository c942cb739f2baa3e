"""A figure raises an arm: drawn by a renderer, the row's photograph behind it."""

from dataclasses import replace

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Pair, Tools
from edittools.synth.scene3d import figure_slots, render, view_of

TASK = "motion"
LOCAL = True
RENDERED = True
INVERSE = "arm_lower"
RAISED = 150  # degrees from hanging down
INSTRUCTION = {
    "en": [
        "{raise|lift|put up} the arm of {the figure|the person} [that is] on the <side> [side of the picture]",
        "{make|let} {the figure|the person} {raise|lift|put up} the arm on the <side> [of the picture]",
    ],
    "zh": [
        "{让|使}{人物|小人}{举起|抬起}画面<side>{侧|边}的{手臂|胳膊}",
        "<ba>{人物|小人}在画面<side>{侧|边}的{手臂|胳膊}{举起来|抬起来}",
    ],
}
DETAIL = {
    "en": ["the arm on the <side> {points up|is raised} {and no longer hangs down|instead of hanging down}"],
    "zh": ["画面<side>侧的手臂{举起|抬起}，不再垂下"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return figure_slots(rng) | {"side": draw(rng, ("left", "right"))}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    view = view_of(slots)
    raised = replace(view, left_arm=RAISED) if slots["side"] == "left" else replace(view, right_arm=RAISED)
    return Pair(render(view, image), render(raised, image))
