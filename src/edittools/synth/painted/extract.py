"""An object stays, all about it becomes plain white: no painter is asked."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, worded

TASK = "extract"
HELP = "an object alone on plain white, where it stood; without the painter"
PROMPT = False
_LEAST, _MOST = 0.01, 0.9  # share of the image that the object has
_SAID = [
    "{extract|cut out|isolate} the <object> {onto|on} a {plain|pure} white background",
    "{keep|show} only the <object> and make everything else {plain|pure} white",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    white = np.full_like(scene.image, 255)
    return [
        Plan(
            ~region.mask, Brush(0, 1, 1.0, holes=True), worded(_SAID, rng, object=region.name),
            {"object": region.name}, made=white,
        )
        for region in scene.told_apart()
        if _LEAST <= region.mask.mean() <= _MOST
    ]  # fmt: skip
