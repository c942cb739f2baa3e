"""A person's looks change: hair, beard, age; the outlines of the face stay (a landmark or canny ControlNet)."""

import numpy as np

from edittools.synth.painting import Plan, Scene, altered, with_article

TASK = "portrait"
HELP = "a person's looks change (lexicon: portrait), along the outlines of the face"
PROMPT = True
_PEOPLE = frozenset("person man woman boy girl child baby face".split())
_SAID = ["{make|have} the <object> look <word>", "{show|render} the <object> <word>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    people = tuple(region for region in scene.regions if _PEOPLE & set(region.name.casefold().split()))
    told = Scene(scene.image, people, scene.words)
    return altered(told, rng, "portrait", _SAID, lambda noun, word: f"{with_article(noun)} {word}")
