"""Concise: the shortest of several wordings, so short ones prevail and their syntax still varies."""

import numpy as np

from edittools.caption.grammar import sentence
from edittools.caption.wording import imperative

DRAWS = 4


def write(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    return sentence(min((imperative(name, slots, lang, rng) for _ in range(DRAWS)), key=len), lang)
