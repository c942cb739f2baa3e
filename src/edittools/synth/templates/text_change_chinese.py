"""The word on a sign, in Chinese characters, replaced; box, colours and font stay."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.lettering import pick_sign
from edittools.synth.templates.text_change import DETAIL, EFFECT, INSTRUCTION, KEEPS, LOCAL, TASK, apply, invert_slots

__all__ = ["DETAIL", "EFFECT", "INSTRUCTION", "INVERSE", "KEEPS", "LOCAL", "TASK", "apply", "invert_slots", "slots"]

INVERSE = "text_change_chinese"


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_sign(image, rng, tools, "chinese")
