"""A word in Chinese characters taken off the image: the inverse of text_add_chinese."""

import numpy as np

from edittools.synth.core import Tools
from edittools.synth.lettering import pick_text
from edittools.synth.templates.text_remove import DETAIL, EFFECT, INSTRUCTION, LOCAL, TASK, apply

__all__ = ["DETAIL", "EFFECT", "INSTRUCTION", "INVERSE", "LOCAL", "TASK", "apply", "slots"]

INVERSE = "text_add_chinese"


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return pick_text(image, rng, tools, "chinese")
