"""A compound instruction is split into atomic edits, which an editing model carries out one after the other: by the
row's `atomic_edits` (`edit caption`, kind `evolve`), or at the words that join its parts."""

import re

import numpy as np

from edittools.errors import RowError
from edittools.painters.canvas import Brush
from edittools.synth.experts import who_can
from edittools.synth.painting import Plan, PlanStep, Scene

TASK = "hybrid"
HELP = "the row's compound instruction, its atomic edits one after the other; --steps also makes their pairs"
PROMPT = True
INSTRUCTS = True
BARE = True
_JOINTS = re.compile(r"\s*(?:;|\.\s+|,?\s+(?:and\s+then|then|and\s+also|and)\s+|,\s+)\s*(?:also\s+)?", re.IGNORECASE)


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    """Raises RowError for an instruction that is no compound, or of which no expert can do a part."""
    if not scene.instruction:
        return []
    parts = list(scene.edits) or parted(scene.instruction, scene)
    if len(parts) < 2:
        raise RowError("no compound instruction", scene.instruction)
    everywhere = np.ones(scene.image.shape[:2], bool)
    brush, steps = Brush(0, 0, 1.0), []
    for k, part in enumerate(parts):
        task, primitive = who_can(part, scene.experts, images=1)
        said = part[:1].upper() + part[1:].rstrip(".") + "."
        told = {"primitive": primitive, "part": k}
        steps.append(PlanStep(Plan(everywhere, brush, said, told, prompt=said, task=task), k - 1))
    slots = {"parts": [{"task": step.plan.task, "instruction": step.plan.instruction} for step in steps]}
    return [Plan(everywhere, brush, scene.instruction, slots, prompt=scene.instruction, steps=tuple(steps))]


def parted(instruction: str, scene: Scene) -> list[str]:
    """An instruction at its joints; what no expert can do alone ("... and the cat") stays with what is before it."""
    found: list[str] = []
    for part in _JOINTS.split(instruction.rstrip(" .")):
        if found and not _stands_alone(part, scene):
            found[-1] += f" and {part}"
        elif part:
            found.append(part)
    return found


def _stands_alone(part: str, scene: Scene) -> bool:
    """Whether a part says what is to be done: its first word is one that some expert listens for."""
    first = part.split(" ", 1)[0].casefold()
    known = {word.split(" ", 1)[0] for expert in scene.experts.values() for one in expert.primitives.values()
             for word in one.triggers}  # fmt: skip
    return first in known
