"""A figure lowers its arm: the inverse of arm_raise."""

import numpy as np

from edittools.synth.core import Pair, Tools
from edittools.synth.templates import arm_raise

TASK = "motion"
LOCAL = True
RENDERED = True
INVERSE = "arm_raise"
INSTRUCTION = {
    "en": [
        "{lower|let down|put down} the arm of {the figure|the person} [that is] on the <side> [side of the picture]",
        "{make|let} {the figure|the person} {lower|put down|take down} the arm on the <side> [of the picture]",
    ],
    "zh": [
        "{让|使}{人物|小人}{放下|垂下}画面<side>{侧|边}的{手臂|胳膊}",
        "<ba>{人物|小人}在画面<side>{侧|边}的{手臂|胳膊}{放下来|垂下来}",
    ],
}
DETAIL = {
    "en": ["the arm on the <side> hangs down {and no longer points up|instead of pointing up}"],
    "zh": ["画面<side>侧的手臂垂下，不再举起"],
}

slots = arm_raise.slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    raised = arm_raise.apply(image, slots, tools)
    return Pair(raised.target, raised.source)
