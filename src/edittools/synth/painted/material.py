"""An object is made of another material; its outlines stay."""

import numpy as np

from edittools.synth.painting import Plan, Scene, altered, with_article

TASK = "material"
HELP = "an object is made of another material of the lexicon, its outlines kept"
PROMPT = True
_SAID = [
    "{make the <object> out of|turn the <object> into} <word>",
    "{change|switch} the material of the <object> to <word>",
    "the <object> should be made of <word>",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    return altered(scene, rng, "material", _SAID, lambda noun, word: f"{with_article(noun)} made of {word}")
