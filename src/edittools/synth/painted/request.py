"""The row's own instruction is carried out, where an expert can do it."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.experts import who_can
from edittools.synth.painting import Plan, Scene

TASK = "creative"
HELP = "the row's own instruction, where an expert can do it (--painter editor, endpoint); others are refused"
PROMPT = True
INSTRUCTS = True
BARE = True


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    """Raises RowError for a request out of scope."""
    if not scene.instruction:
        return []
    task, primitive = who_can(scene.instruction, scene.experts, scene.task, images=1 + len(scene.references))
    everywhere = np.ones(scene.image.shape[:2], bool)
    slots = {"primitive": primitive}
    return [Plan(everywhere, Brush(0, 0, 1.0), scene.instruction, slots, prompt=scene.instruction, task=task)]
