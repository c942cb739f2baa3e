"""A compound instruction is split into atomic edits, which an editing model carries out one after the other: by the
row's `atomic_edits` (`edit caption`, kind `evolve`), or at the words that join its parts."""

import re

import numpy as np

from edittools.caption.grammar import QUOTED
from edittools.errors import RowError
from edittools.painters.canvas import Brush
from edittools.synth.experts import who_can
from edittools.synth.painting import Plan, PlanStep, Scene

TASK = "hybrid"
HELP = "the row's compound instruction, its atomic edits one after the other; --steps also makes their pairs"
PROMPT = True
INSTRUCTS = True
BARE = True
_JOINTS = re.compile(
    r"\s*(?:;|\.\s+|,?\s+(?:and\s+then|then|and\s+also|and)\s+|,\s+)\s*(?:(?:and|also|then)\s+)*", re.IGNORECASE
)
_MORE_VERBS = frozenset(
    "insert include exchange substitute recolor recolour repaint enlarge shrink crop zoom flip mirror fix wear draw "
    "wrap rotate shift shave carry hold denoise dehaze derain colourise resize adjust increase decrease apply attach "
    "hang lower sprinkle stretch".split()
)


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
    """An instruction at its joints, of which there are none in quotation marks; what does not say what is to be done
    ("... and the cat", "... and plant", "... and set of chairs") stays with what is before it, word for word."""
    text = instruction.rstrip(" .")
    joints = list(_JOINTS.finditer(QUOTED.sub(lambda quote: "_" * len(quote[0]), text)))
    starts, ends = [0, *(one.end() for one in joints)], [*(one.start() for one in joints), len(text)]
    verbs = _MORE_VERBS.union(*(expert.verbs for expert in scene.experts.values()))
    found: list[tuple[int, int]] = []
    for start, end in zip(starts, ends):
        verb, _, what = text[start:end].casefold().partition(" ")
        if found and (verb not in verbs or not what or what.startswith("of ")):
            found[-1] = found[-1][0], end
        elif start < end:
            found.append((start, end))
    return [text[start:end] for start, end in found]
