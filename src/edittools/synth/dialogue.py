"""Three-turn dialogues: content memory, content understanding, version backtracking (ImgEdit 3.1).

A state of the image is a list of layers (shapes, and cells that were changed) over the original.
Every turn takes its parent's layers and changes that list; drawing it gives the exact target. So
going back to an earlier version is choosing another parent, and nothing has to be undone in pixels.
"""

from dataclasses import dataclass

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.palette import pick_color
from edittools.synth.registry import load
from edittools.synth.shapes import PLACES, box, pick_other_size, pick_shape, pick_thing

KINDS = ("content_memory", "content_understanding", "version_backtracking")
# How a turn changes what `it` is. Removing it is left out: the dialogue would end where it began.
CHANGES = ("shape_color", "move", "replace", "resize")
BACKTRACKS = {"undo": 0, "back_to_first": 0, "back_to_original": -1}  # wording -> parent of the third turn

State = tuple[tuple[str, dict], ...]  # layers as (add or region, slots), bottom first, in different cells


@dataclass(frozen=True)
class DialoguePlan:
    """A turn before it is drawn: slots["wording"] is set where the wording refers to earlier turns."""

    parent: int
    template: str
    slots: dict
    state: State


def draw_state(image: np.ndarray, state: State, tools: Tools) -> np.ndarray:
    """All layers over the image."""
    for name, slots in state:
        image = load(name).pair(image, slots, tools).target
    return image


def plan(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> tuple[str, list[DialoguePlan]]:
    """Draw a dialogue's kind and its three turns."""
    kind = draw(rng, KINDS)
    planner = {
        "content_memory": _memory,
        "content_understanding": _understanding,
        "version_backtracking": _backtracking,
    }[kind]
    return kind, planner(image, rng, tools)


def _places(rng: np.random.Generator) -> list[str]:
    return [PLACES[int(i)] for i in rng.permutation(len(PLACES))]


def _memory(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> list[DialoguePlan]:
    places = _places(rng)
    things = [pick_thing(image, rng, (place,)) for place in places[:3]]
    variant = draw(rng, ("rule", "same_color", "same_shape"))
    if variant == "rule":
        for thing, wording in zip(things, ("rule", "by_the_rule", "by_the_rule")):
            thing |= {"color": things[0]["color"], "wording": wording}
        return _chain([("add", thing) for thing in things])
    # the middle turn is there to be talked over: another change that must not be taken for the first
    middle = ("region", load("region").slots(image, rng, tools) | {"place": places[1]})
    attribute = variant.removeprefix("same_")
    last = things[2] | {attribute: things[0][attribute], "wording": variant}
    if variant == "same_shape":  # which may need more room than the third thing's own shape
        last["size"] = things[0]["size"]
    return _chain([("add", things[0]), middle, ("add", last)])


def _chain(layers: list[tuple[str, dict]]) -> list[DialoguePlan]:
    """Turns that each add one layer to the turn before."""
    return [
        DialoguePlan(index - 1, name, slots, tuple(layers[: index + 1])) for index, (name, slots) in enumerate(layers)
    ]


def _understanding(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> list[DialoguePlan]:
    thing = pick_thing(image, rng)
    plans = [DialoguePlan(-1, "add", thing, (("add", thing),))]
    for parent, index in enumerate(rng.permutation(len(CHANGES))[:2]):
        change = CHANGES[int(index)]
        slots, thing = _change(image, thing, change, rng)
        plans.append(DialoguePlan(parent, change, slots | {"wording": "it"}, (("add", thing),)))
    return plans


def _change(image: np.ndarray, thing: dict, change: str, rng: np.random.Generator) -> tuple[dict, dict]:
    """Slots of a change to the thing, and the thing afterwards."""
    where = box(thing["place"], thing["size"], *image.shape[:2])
    if change == "move":
        place = draw(rng, [p for p in PLACES if p != thing["place"]])
        return thing | {"to_place": place}, thing | {"place": place}
    if change == "resize":
        size = pick_other_size(thing, image, rng)
        return thing | {"new_size": size}, thing | {"size": size}
    color = pick_color(image, where, rng, avoid=(thing["color"],))
    if change == "shape_color":
        return thing | {"new_color": color}, thing | {"color": color}
    shape = pick_shape(where[2] - where[0], rng, avoid=(thing["shape"],))
    return thing | {"new_color": color, "new_shape": shape}, thing | {"color": color, "shape": shape}


def _backtracking(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> list[DialoguePlan]:
    places = _places(rng)
    layers = []
    for place in places[:3]:
        if draw(rng, ("add", "region")) == "add":
            layers.append(("add", pick_thing(image, rng, (place,))))
        else:
            layers.append(("region", load("region").slots(image, rng, tools) | {"place": place}))
    plans = _chain(layers[:2])
    wording = draw(rng, tuple(BACKTRACKS))
    parent = BACKTRACKS[wording]
    before = plans[parent].state if parent >= 0 else ()
    name, slots = layers[2]
    slots = slots | {"wording": wording}
    return [*plans, DialoguePlan(parent, name, slots, (*before, (name, slots)))]
