"""A photograph becomes a picture of another style, along its outlines; the way back is the photograph itself."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.seeded import draw
from edittools.synth.painting import Plan, Scene, with_article, worded

TASK = "style"
HELP = "a photograph in another style; --inverse makes a photograph of it, and the target is the photograph itself"
PROMPT = True
INVERSE = "style"
_SAID = [
    "{turn|change|convert} the {image|picture|photo} into <style>",
    "{redraw|render|show} {this|the {image|picture}} as <style>",
]
_BACK = [
    "{turn|change|convert} {this|the} <plain> into a {photograph|realistic photo}",
    "make this <plain> a real photo",
]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    styles = scene.wanted("style")
    if scene.style or not styles:
        return []
    style = draw(rng, styles)
    what = f"{with_article(style)} of {scene.caption}" if scene.caption else with_article(style)
    said, back = worded(_SAID, rng, style=with_article(style)), worded(_BACK, rng, plain=style)
    everywhere = np.ones(scene.image.shape[:2], bool)
    return [
        Plan(everywhere, Brush(0, 0, 1.0), said, {"style": style}, prompt=what, look=style, outlines=True, inverse=back)
    ]
