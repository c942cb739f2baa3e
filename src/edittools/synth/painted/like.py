"""An object becomes the one of the row's second image, which the painter is shown beside the photograph."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, worded

TASK = "visual"
HELP = "an object becomes that of the row's second image, which the painter is shown"
PROMPT = True
SHOWS = True
_LEAST, _MOST = 0.01, 0.6  # share of the image that the object has (ImgEdit's gate on objects)
_GROW = 8 / 1024  # of the shorter side
_SAID = [
    "replace the <object> {of|in} {Figure 1|the first image} with {the thing|what is} in {Figure 2|the second image}",
    "swap the <object> {of|in} {Figure 1|the first image} for {the thing|what is} in {Figure 2|the second image}",
    "turn the <object> {of|in} {Figure 1|the first image} into {the thing|what is} in {Figure 2|the second image}",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    if not scene.references:
        return []
    grow = max(2, round(_GROW * min(scene.image.shape[:2])))
    return [
        Plan(
            region.mask,
            Brush(grow, grow, 1.6),
            worded(_SAID, rng, object=region.name),
            {"object": region.name},
            prompt="on the left a thing by itself, on the right a photograph in which it stands",
        )
        for region in scene.told_apart()
        if _LEAST <= region.mask.mean() <= _MOST
    ]
