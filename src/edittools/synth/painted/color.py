"""An object takes another colour; its outlines stay."""

import numpy as np

from edittools.synth.painting import Plan, Scene, altered, with_article

TASK = "color"
HELP = "an object takes another colour of the lexicon, its outlines kept"
PROMPT = True
_SAID = [
    "{make|paint|color} the <object> <word>",
    "change the color of the <object> to <word>",
    "the <object> should be <word>",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    return altered(scene, rng, "color", _SAID, lambda noun, word: with_article(f"{word} {noun}"))
