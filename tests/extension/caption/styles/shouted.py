"""Shouted: in capitals, where a language has them."""

import numpy as np

from edittools.caption.grammar import sentence
from edittools.caption.wording import imperative


def write(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    return sentence(imperative(name, slots, lang, rng), lang).upper()
