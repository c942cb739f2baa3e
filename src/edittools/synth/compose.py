"""Hybrids: two atomic edits on different places in one instruction, and their splitting again.

Parts come from add, remove, replace and region (the four of ImgEdit 3.1), each confined to one cell of the
3 x 3 grid. As the cells differ, neither part touches the other and their order does not matter.
"""

from itertools import pairwise

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Inapplicable, Pair, Tools
from edittools.synth.registry import load
from edittools.synth.shapes import PLACES

PARTS = ("add", "remove", "replace", "region")


def hybrid_slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """Draw two parts on different places: {"parts": [{"template", "task", "slots"}, ...]}."""
    parts: list[dict] = []
    places: set[str] = set()
    # a draw on a taken place is thrown away; each succeeds with a chance of at least 8 in 9
    for _ in range(8 * len(PLACES)):
        template = load(draw(rng, PARTS))
        slots = template.slots(image, rng, tools)
        if slots["place"] not in places:
            places.add(slots["place"])
            parts.append({"template": template.name, "task": template.task, "slots": slots})
        if len(parts) == 2:
            return {"parts": parts}
    raise Inapplicable("no two different places found")


def hybrid_pair(image: np.ndarray, slots: dict, tools: Tools) -> Pair:
    """All parts before, and all parts after."""
    source = target = image
    for part in slots["parts"]:
        template = load(part["template"])
        source = template.pair(source, part["slots"], tools).source
        target = template.pair(target, part["slots"], tools).target
    return Pair(source, target)


def split(image: np.ndarray, slots: dict, tools: Tools) -> list[Pair]:
    """A hybrid as a chain of atomic edits: each pair's target is the next pair's source."""
    templates = [(load(part["template"]), part["slots"]) for part in slots["parts"]]
    states = []
    for done in range(len(templates) + 1):
        state = image
        for index, (template, part_slots) in enumerate(templates):
            pair = template.pair(state, part_slots, tools)
            state = pair.target if index < done else pair.source
        states.append(state)
    return [Pair(before, after) for before, after in pairwise(states)]
