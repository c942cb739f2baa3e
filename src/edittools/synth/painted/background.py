"""All but the objects becomes another place; the objects stay, pixel for pixel."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.seeded import draw
from edittools.synth.painting import Plan, Scene, worded

TASK = "background"
HELP = "what is about the objects becomes one of --scenes, or of the lexicon"
PROMPT = True
_LEAST, _MOST = 0.4, 0.95  # share of the image that is painted; more than 40% (ImgEdit)
_SAID = [
    "{change the background to|replace the background with} <scene>",
    "{put|place} the <object> {in front of|before} <scene>",
    "make the background <scene>",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    regions = [region for region in scene.regions if region.mask.any()]
    scenes = scene.wanted("background")
    if not regions or not scenes:
        return []
    objects = np.logical_or.reduce([region.mask for region in regions])
    if not _LEAST <= 1 - objects.mean() <= _MOST:
        return []
    largest = max(regions, key=lambda region: region.mask.sum())
    chosen = draw(rng, scenes)
    feather = max(1, round(0.003 * max(scene.image.shape[:2])))
    said = worded(_SAID, rng, object=largest.name or "subject", scene=chosen)
    slots = {"object": largest.name, "scene": chosen}
    return [Plan(~objects, Brush(0, feather, 1.0, holes=True), said, slots, prompt=chosen, look=chosen)]
