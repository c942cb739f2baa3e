"""Dialogues of three turns on lossless images (ImgEdit 3.1). The first turn adds an object that the photograph has: its
source is painted, the photograph is its image, and the other turns start from there, so that one image less is made."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edittools.caption.grammar import is_plural
from edittools.seeded import draw
from edittools.synth.painted import color
from edittools.synth.painted.hybrid import bare, pairs_of, parts_of
from edittools.synth.painting import Plan, PlanStep, Region, Scene, Turn, worded

TASK = "hybrid"
HELP = "dialogues of three turns: content memory, content understanding, version backtracking"
PROMPT = False
_MOST = 4  # of each kind
_IT = ["{now|then} make <it> <word>", "{now|then} {paint|color} <it> <word>"]
_SWAP = ["{now|then} replace <it> with <thing>", "{now|then} {turn|change} <it> into <thing>"]
_GONE = ["{now|then} remove <it> again", "{now|then} take <it> away again"]
_UNDO = ["undo the last step; instead, <core>", "{go back|return} to the version before that, and <core>"]
_RULE = ["<core>; {from now on|from here on} everything that I have recolored is to be <word>"]
_BY_RULE = ["{now recolor|recolor} the <object>", "{now change|change} the color of the <object>"]


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    kinds: list[Callable[[Scene, np.random.Generator], list[Plan]]] = [_backtracking]
    if scene.prompts:
        kinds += [_understanding, _memory]
    return [plan for kind in kinds for plan in kind(scene, rng)[:_MOST]]


def _begun(scene: Scene, parts: dict[str, list[Plan]]) -> dict[str, Plan]:
    """Removals by the object's name: what first turns are the way back of."""
    return {name: plan for name, some in parts.items() for plan in some if plan.task == "remove" and plan.inverse}


def _plan(
    kind: str, first: Plan, opening: str, steps: list[PlanStep], turns: list[Turn], slots: dict[str, object]
) -> Plan:
    """A dialogue whose first step is the removal, and whose first turn is the photograph."""
    start = Turn(-1, -1, kind, "add", opening)
    masks = np.logical_or.reduce([first.mask, *(step.plan.mask for step in steps)])
    return Plan(
        masks, first.brush, opening, {"kind": kind, "object": first.slots["object"], **slots},
        steps=(PlanStep(first), *steps), turns=(start, *turns), source=0,
    )  # fmt: skip


def _backtracking(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    kind, parts, found = "version_backtracking", parts_of(scene, rng), []
    regions = {region.name: region for region in scene.told_apart()}
    for a, b in pairs_of(scene, regions, rng):
        first = _begun(scene, parts).get(a.name)
        if first is None or not parts.get(b.name):
            continue
        others = [name for name in parts if name != a.name and (name != b.name or len(parts[b.name]) > 1)]
        if not others:
            continue
        second = draw_plan(parts[b.name], rng)
        third = draw_plan([plan for plan in parts[draw(rng, others)] if plan is not second] or [second], rng)
        if third is second:
            continue
        core = worded(_UNDO, rng, core=bare(third.instruction))
        turns = [Turn(1, 0, kind, second.task or "", second.instruction), Turn(2, 0, kind, third.task or "", core)]
        slots: dict[str, object] = {"second": second.slots["object"], "third": third.slots["object"]}
        found.append(_plan(kind, first, str(first.inverse), [PlanStep(second), PlanStep(third)], turns, slots))
    return found


def _understanding(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    kind, parts, found = "content_understanding", parts_of(scene, rng), []
    for name, first in _begun(scene, parts).items():
        tints = [plan for plan in parts[name] if plan.task == "color"]
        ends = [plan for plan in parts[name] if plan.task == "replace"] or [first]
        if not tints:
            continue
        tint, end = draw_plan(tints, rng), draw_plan(ends, rng)
        it = "them" if is_plural(name) else "it"
        said = worded(_IT, rng, it=it, word=str(tint.slots["color"]))
        swap = end.task == "replace"
        last = worded(_SWAP, rng, it=it, thing=str(end.slots["thing"])) if swap else worded(_GONE, rng, it=it)
        turns = [Turn(1, 0, kind, "color", said), Turn(2, 1, kind, end.task or "", last)]
        slots = {"color": tint.slots["color"]}
        found.append(_plan(kind, first, str(first.inverse), [PlanStep(tint), PlanStep(end, 1)], turns, slots))
    return found


def _memory(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    kind, found = "content_memory", []
    regions = {region.name: region for region in scene.told_apart()}
    begun = _begun(scene, parts_of(scene, rng))
    words = scene.wanted("color")
    for b, c in pairs_of(scene, regions, rng):
        free = [name for name in begun if name not in (b.name, c.name)]
        if not free or not words:
            continue
        first, word = begun[draw(rng, free)], draw(rng, words)
        tints = [_tint(scene, one, word, rng) for one in (b, c)]
        if None in tints:
            continue
        opening = worded(_RULE, rng, core=bare(str(first.inverse)), word=word)
        said = [worded(_BY_RULE, rng, object=one.name) for one in (b, c)]
        steps = [PlanStep(tints[0]), PlanStep(tints[1], 1)]  # type: ignore[arg-type]
        turns = [Turn(1, 0, kind, "color", said[0]), Turn(2, 1, kind, "color", said[1])]
        found.append(_plan(kind, first, opening, steps, turns, {"rule": word}))
    return found


def _tint(scene: Scene, region: Region, word: str, rng: np.random.Generator) -> Plan | None:
    """One object in this colour."""
    told = replace(scene, regions=(region,), words={"color": {"rule": [word]}})
    made = color.plans(told, rng)
    return replace(made[0], task="color", numbers="color") if made else None


def draw_plan(plans: list[Plan], rng: np.random.Generator) -> Plan:
    return plans[int(rng.integers(len(plans)))]
