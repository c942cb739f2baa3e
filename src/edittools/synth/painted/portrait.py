"""A person's looks change: hair, beard, age; the outlines of the face stay (a landmark or canny ControlNet)."""

import numpy as np

from edittools.synth.painting import Plan, Scene, altered, with_article

TASK = "portrait"
HELP = "a person's looks change (lexicon: portrait), along the outlines of the face"
PROMPT = True
_SAID = ["{show|render} the <object> <word>", "the <object> should be {seen|shown} <word>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    return altered(scene, rng, "portrait", _SAID, lambda noun, word: f"{with_article(noun)} {word}", people=True)
