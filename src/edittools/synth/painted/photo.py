"""A picture of some style becomes a photograph, along its outlines; the way back has the picture itself for target."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, with_article, worded

TASK = "style"
HELP = "a stylised picture (its style is in `caption_structured`) as a photograph; --inverse has the picture for target"
PROMPT = True
INVERSE = "style"
_SAID = [
    "{turn|change|convert} {this|the} <style> into a {photograph|realistic photo}",
    "make this <style> a real photo",
]
_BACK = ["{turn|change|convert} the photo into <styled>", "{redraw|render} this photo as <styled>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    if not scene.style:
        return []
    said = worded(_SAID, rng, style=scene.style)
    back = worded(_BACK, rng, styled=with_article(scene.style))
    prompt = f"a photograph of {scene.caption}" if scene.caption else "a photograph"
    everywhere = np.ones(scene.image.shape[:2], bool)
    told = {"style": scene.style}
    return [
        Plan(
            everywhere, Brush(0, 0, 1.0), said, told, prompt=prompt, negative=scene.style, look="a photograph",
            outlines=True, inverse=back,
        )
    ]  # fmt: skip
