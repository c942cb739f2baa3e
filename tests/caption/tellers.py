"""Captioners that know the slots of `edit synth` rows: one that tells the truth, and ones that err in a known way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from signs import tools

from edittools.caption.captions import caption
from edittools.caption.grammar import sentence
from edittools.caption.wording import imperative
from edittools.seeded import stream
from edittools.synth.palette import COLORS
from edittools.synth.shapes import PLACES
from edittools.synth.synthesis import synthesize

TOOLS = tools()
_MIRRORED = {
    place: "_".join({"left": "right", "right": "left"}.get(word, word) for word in place.split("_")) for place in PLACES
}
_FLIPPED = {
    place: "_".join({"top": "bottom", "bottom": "top"}.get(word, word) for word in place.split("_")) for place in PLACES
}


def samples(templates: list[str], count: int) -> Iterator[tuple[str, str, dict]]:
    """(row id, template, slots) of `count` rows of each template."""
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        for name in templates:
            for sample in synthesize(image, f"{name}-{number}", templates=[name], tools=TOOLS)[0]:
                yield f"{name}-{number}", name, json.loads(json.dumps(sample.slots))


def atoms(template: str, slots: dict) -> list[tuple[str, dict]]:
    """(template, slots) of the atomic edits of a row."""
    if "parts" in slots:
        return [(part["template"], part["slots"]) for part in slots["parts"]]
    if "turns" in slots:
        return [(turn["template"], turn["slots"]) for turn in slots["turns"]]
    return [(template, slots)]


def _with_atoms(slots: dict, found: list[tuple[str, dict]]) -> dict:
    if "parts" in slots:
        return slots | {"parts": [one | {"slots": own} for one, (_, own) in zip(slots["parts"], found)]}
    return found[0][1]


def other_side(place: str) -> str:
    return {"center": "top_left"}.get(place) or (_MIRRORED[place] if _MIRRORED[place] != place else _FLIPPED[place])


def erring(template: str, slots: dict, error: str, rng: np.random.Generator) -> dict | None:
    """The slots with one error of a kind: a side swapped, a colour changed; None where there is nothing of the kind."""
    found = atoms(template, slots)
    number = int(rng.integers(len(found)))
    name, own = found[number]
    taken = {one.get("place") for _, one in found}
    if error == "side":
        if "place" not in own or "to_place" in own or other_side(own["place"]) in taken:
            return None
        own = own | {"place": other_side(own["place"])}
    elif error == "colour":
        slot = next((slot for slot in ("new_color", "color") if slot in own), None)
        if slot is None or name in ("text_remove", "text_change", "material") or "turns" in slots:
            return None
        used = {value for _, one in found for key, value in one.items() if key.endswith("color")}
        free = [color for color in COLORS if color not in used | {"white", "gray"}]
        own = own | {slot: free[int(rng.integers(len(free)))]}
    return _with_atoms(slots, [*found[:number], (name, own), *found[number + 1 :]])


def tell(identity: str, template: str, slots: dict, style: str = "concise") -> dict[str, str]:
    return caption(template, slots, identity)[style]


def with_invented(identity: str, template: str, slots: dict, told: dict[str, str]) -> dict[str, str]:
    """The text with one more edit, of a place that nothing else is at."""
    rng = stream("invented", identity)
    taken = {value for _, own in atoms(template, slots) for key, value in own.items() if key.endswith("place")}
    near = {word for place in taken for word in str(place).split("_")}
    free = [place for place in PLACES if place not in taken and not set(place.split("_")) < near] or list(PLACES)
    thing = {"color": "brown", "shape": "cross", "size": "small", "place": free[int(rng.integers(len(free)))]}
    more = {language: sentence(imperative("add", thing, language, rng), language) for language in told}
    return {language: told[language] + (" " if language == "en" else "") + more[language] for language in told}


def with_missed(identity: str, slots: dict) -> dict[str, str]:
    """A hybrid's text without one of both edits."""
    part = slots["parts"][int(stream("missed", identity).integers(2))]
    return tell(identity, part["template"], part["slots"])
