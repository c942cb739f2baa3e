"""What an instruction-only model is asked by the library of experts: any task, the whole image."""

import numpy as np

from edittools.painters.canvas import Brush
from edittools.synth.experts import Expert, FilledPrimitive, asked_of
from edittools.synth.painting import Plan, Scene, without_article

TASK = "creative"
HELP = "any task of --experts, asked of an editing model (--painter editor, endpoint) by its instruction alone"
PROMPT = True
INSTRUCTS = True
BARE = True


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    return [
        plan_of(scene, one, expert)
        for task, expert in scene.experts.items()
        for one in asked_of(scene, task, expert, rng)
    ]


def plan_of(scene: Scene, one: FilledPrimitive, expert: Expert) -> Plan:
    there = next((one.slots[slot] for slot in expert.there if slot in one.slots), "")
    gone = one.region.name if one.region is not None and expert.gone in one.slots else ""
    return Plan(
        np.ones(scene.image.shape[:2], bool),
        Brush(0, 0, 1.0),
        one.instruction,
        {"primitive": one.primitive, **one.slots},
        prompt=one.instruction,
        gone=gone,
        there=without_article(there),
        place=one.region.box if one.region is not None and gone else None,
        task=one.task,
    )
