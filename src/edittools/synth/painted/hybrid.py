"""Two edits of different objects in one instruction, painted one after the other on lossless images (ImgEdit 3.1)."""

from dataclasses import replace

import numpy as np

from edittools.synth.painted import alter, color, remove
from edittools.synth.painted import replace as replacing
from edittools.synth.painting import Plan, PlanStep, Region, Scene, apart, worded

TASK = "hybrid"
HELP = "two of remove, replace, color, alter on objects that lie apart; --steps makes their pairs too"
PROMPT = False
_MOST = 8  # pairs of objects that are planned
_JOINED = ["<first>, and <second>", "<first>; also <second>", "<first>, then <second>"]
_PARTS = {"remove": remove, "replace": replacing, "color": color, "alter": alter}


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    regions = {region.name: region for region in scene.told_apart()}
    parts = parts_of(scene, rng)
    found: list[Plan] = []
    for first, second in pairs_of(scene, regions, rng):
        if not parts.get(first.name) or not parts.get(second.name):
            continue
        chosen = [parts[one.name][int(rng.integers(len(parts[one.name])))] for one in (first, second)]
        said = worded(_JOINED, rng, first=bare(chosen[0].instruction), second=bare(chosen[1].instruction))
        slots = {"parts": [dict(plan.slots, task=plan.task) for plan in chosen]}
        mask = chosen[0].mask | chosen[1].mask
        steps = tuple(PlanStep(plan, k - 1) for k, plan in enumerate(chosen))
        found.append(Plan(mask, chosen[0].brush, said, slots, steps=steps))
        if len(found) == _MOST:
            break
    return found


def parts_of(scene: Scene, rng: np.random.Generator) -> dict[str, list[Plan]]:
    """The edits that can be made of every object, by its name."""
    found: dict[str, list[Plan]] = {}
    for name, module in _PARTS.items():
        if not module.PROMPT or scene.prompts:
            for plan in module.plans(scene, rng):
                told = replace(plan, task=module.TASK, numbers=name)
                found.setdefault(str(plan.slots["object"]), []).append(told)
    return found


def pairs_of(scene: Scene, regions: dict[str, Region], rng: np.random.Generator) -> list[tuple[Region, Region]]:
    """Objects that lie apart, in an order of the seed's."""
    names = sorted(regions)
    every = [(regions[a], regions[b]) for a in names for b in names if a != b]
    shuffled = [every[int(k)] for k in rng.permutation(len(every))]
    return [(one, other) for one, other in shuffled if apart(one, other, scene.image.shape)]


def bare(sentence: str) -> str:
    """A sentence as a part of another: no capital letter, no full stop."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
