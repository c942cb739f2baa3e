"""An object is painted over with what may be behind it; the way back adds it, and its target is the photograph."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, place, with_article, worded

TASK = "remove"
HELP = "an object is painted over; --inverse adds it back, and the target is the photograph itself"
PROMPT = False
INVERSE = "add"
_LEAST, _MOST = 0.0005, 0.5  # share of the image that the object's mask has
_GROW = 0.008  # of the longer side: masks are tight, and what an object leaves at its edge gives it away
_SAID = ["{remove|erase|delete|take away|get rid of} the <object>", "{make|let} the <object> {disappear|vanish}"]
_BACK = ["{add|put|place} <object> <place>", "there should be <object> <place>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    found = []
    longer = max(scene.image.shape[:2])
    for region in scene.told_apart():
        if not _LEAST <= region.mask.mean() <= _MOST:
            continue
        where = place(region.box)
        found.append(
            Plan(
                region.mask,
                Brush(grow=max(2, round(_GROW * longer)), feather=max(2, round(_GROW * longer / 2)), context=2.0),
                worded(_SAID, rng, object=region.name),
                {"object": region.name, "place": where},
                prompt="empty background, nothing there",
                negative=region.name,
                inverse=worded(_BACK, rng, object=with_article(region.name), place=where),
                gone=region.name,
            )
        )
    return found
