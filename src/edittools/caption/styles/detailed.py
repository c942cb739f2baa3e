"""Detailed: what to do, what the result looks like, and what stays the same."""

import numpy as np

from edittools.caption.grammar import sentence
from edittools.caption.wording import details, imperative, keeps


def write(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    texts = [
        imperative(name, slots, lang, rng),
        *details(name, slots, lang, rng),
        keeps(name, slots, lang, rng),
    ]
    return (" " if lang == "en" else "").join(sentence(text, lang) for text in texts)
