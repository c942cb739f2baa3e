"""An object changes its state: weathered, covered with snow, striped; its outlines stay."""

import numpy as np

from edittools.synth.painting import Plan, Scene, altered, with_article

TASK = "adjust"
HELP = "an object changes its state or pattern (lexicon: adjust), its outlines kept"
PROMPT = True
_SAID = ["make the <object> <word>", "{change|alter} the <object> to be <word>", "the <object> should be <word>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    return altered(scene, rng, "adjust", _SAID, lambda noun, word: f"{with_article(noun)}, {word}")
