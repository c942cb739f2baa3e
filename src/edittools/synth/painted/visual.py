"""An object of a second image is put into the first: the way back of its removal, the object itself on white beside it.
The target is the photograph."""

from dataclasses import replace

import numpy as np

from edittools.synth.painted import remove
from edittools.synth.painting import Plan, Scene, worded

TASK = "visual"
HELP = "the object of a second image is put into the first; the target is the photograph itself"
PROMPT = False
_LEAST = 0.01  # share of the image: smaller ones are no picture of anything
_SAID = [
    "{add|put|place} the <object> {of|from} {Figure 2|the second image} {into|in} {Figure 1|the first} <place>",
    "in {Figure 1|the first image}, {add|put|place} the <object> {of|from} {Figure 2|the second image} <place>",
]
_MARGIN = 0.1  # of the object's sides


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    found = []
    masks = {region.name: region.mask for region in scene.told_apart()}
    for plan in remove.plans(scene, rng):
        name = str(plan.slots["object"])
        if masks[name].mean() >= _LEAST:
            said = worded(_SAID, rng, object=name, place=str(plan.slots["place"]))
            alone = (on_white(scene.image, masks[name]),)
            found.append(replace(plan, inverse=said, references=alone, backwards=True))
    return found


def on_white(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object alone, with a margin."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = np.where(mask[place][..., None], image[place], np.uint8(255))
    more = [(round(_MARGIN * side) + 1,) * 2 for side in cut.shape[:2]]
    return np.pad(cut, [*more, (0, 0)], constant_values=255)
