"""An object gives way to another thing, painted into the box about it: a mask would force its shape on the new one."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.seeded import draw
from edittools.synth.painting import Plan, Scene, without_article, worded

TASK = "replace"
HELP = "an object gives way to one of --things, or to another thing of its kind in the lexicon"
PROMPT = True
_LEAST, _MOST = 0.01, 0.6  # share of the image that the object's box has (ImgEdit's gate on objects)
_SAID = [
    "{replace the <object> with|swap the <object> for} <thing>",
    "{change|turn} the <object> into <thing>",
    "put <thing> in the place of the <object>",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    found = []
    height, width = scene.image.shape[:2]
    for region in scene.told_apart():
        x0, y0, x1, y1 = region.box
        things = _alike(scene, region.name)
        if not things or not _LEAST <= (x1 - x0) * (y1 - y0) <= _MOST:
            continue
        thing = draw(rng, things)
        mask = region.mask.copy()
        mask[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = True
        feather = max(2, round(0.008 * max(height, width)))
        said = worded(_SAID, rng, object=region.name, thing=thing)
        slots = {"object": region.name, "thing": thing}
        brush, there = Brush(feather, feather, 1.6), without_article(thing)
        found.append(Plan(mask, brush, said, slots, prompt=thing, negative=region.name, gone=region.name, there=there))
    return found


def _alike(scene: Scene, name: str) -> list[str]:
    """What may take its place: other things of the kinds that know its name, or of all."""
    kinds, said = scene.words.get("replace", {}), name.casefold()
    own = [words for words in kinds.values() if any(without_article(one).casefold() == said for one in words)]
    return scene.unseen([one for words in own or kinds.values() for one in words if said not in one.casefold()])
