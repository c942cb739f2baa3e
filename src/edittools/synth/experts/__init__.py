"""Experts: what an instruction-only model is asked to do, by task. One TOML file per task: the file name is the task.

can        what the expert does, in a sentence
cannot     words of requests that it refuses
gone       the slot whose thing is not to be found afterwards, where there is one
there      slots whose thing is
primitive  a table: what it is asked, by name. `say` is a pattern (edittools.caption.grammar) whose slots are SLOTS,
           `triggers` are words that a request of this kind has, `images` is how many pictures it speaks of; of `needs`
           one has to be known of the image (Scene.known): the slot <needed> is that one
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edittools.caption.grammar import GrammarError, Literal, openings, parse, sentence
from edittools.caption.targets import read_targets, read_things
from edittools.caption.wording import say
from edittools.errors import RowError, UsageError
from edittools.record import TASKS
from edittools.seeded import draw
from edittools.settings import read_settings
from edittools.synth.painting import PEOPLE, Region, Scene, head_of, is_person, place, with_article, without_article

FOLDER = Path(__file__).parent
# Last words of the names of what can be opened, and of what holds something.
_OPENS = frozenset(
    "book box door window umbrella suitcase briefcase drawer drawers wardrobe refrigerator microwave laptop curtain "
    "gate car van mailbox jar bottle envelope tent handbag backpack bag toolbox cupboard oven".split()
)
_HOLDS = frozenset(
    "cup mug glass bowl basket bucket bottle jar vase jug teapot kettle pot plate tray saucepan pan box bin aquarium "
    "fountain pool bathtub sink bookshelf cart wheelbarrow".split()
)
_LIFELESS = frozenset("hot teddy stuffed toy plush fried roast roasted grilled rubber".split())
_PLACES = ("on the left", "on the right", "in the middle", "in the foreground", "in the background")


@dataclass(frozen=True)
class Primitive:
    """One thing that an expert can be asked."""

    say: str
    triggers: list[str]
    images: int = 1
    needs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Expert:
    """What can be asked of one task."""

    can: str
    cannot: list[str]
    primitive: dict[str, dict[str, Any]]
    gone: str = ""
    there: list[str] = field(default_factory=list)

    @functools.cached_property
    def verbs(self) -> frozenset[str]:
        """The words that its instructions begin with."""
        return frozenset().union(*(openings(parse(one.say)) for one in self.primitives.values()))

    @functools.cached_property
    def primitives(self) -> dict[str, Primitive]:
        return {name: read_settings(Primitive, said, f"primitive `{name}`") for name, said in self.primitive.items()}


@dataclass(frozen=True)
class FilledPrimitive:
    """A primitive with its slots filled: an instruction for one image."""

    task: str
    primitive: str
    instruction: str
    slots: Mapping[str, str]
    region: Region | None  # of <object>


def words_of(*tasks: str) -> Callable[[Scene], list[str]]:
    """From the lexicon of the run: all words of tasks, or of one kind, TASK.KIND."""

    def find(scene: Scene) -> list[str]:
        found: list[str] = []
        for task in tasks:
            name, _, kind = task.partition(".")
            kinds = scene.words.get(name) or read_targets().get(name, {})
            found += kinds.get(kind, []) if kind else [word for some in kinds.values() for word in some]
        return found

    return find


def things_of(*categories: str) -> Callable[[Scene], list[str]]:
    """From the inventory, with an article."""
    return lambda scene: [with_article(name) for category in categories for name in read_things()[category]]


def _last(name: str) -> str:
    return name.casefold().split(" ")[-1]


@functools.cache
def _creatures() -> frozenset[str]:
    known = [name for kind in ("animals", "birds", "insects") for name in read_things()[kind]]
    return frozenset(known).union("bird animal puppy kitten pony calf lamb chicken turkey".split())


def _is_creature(name: str) -> bool:
    """By its last word, in the singular or the plural; no toy, and no food."""
    last = _last(name)
    alive = {last, last.removesuffix("s"), last.removesuffix("es"), re.sub("ies$", "y", last)} & _creatures()
    return bool(alive) and not _LIFELESS & set(name.casefold().split())


# Which objects of the image a slot may be filled with.
POOLS: dict[str, Callable[[str], bool]] = {
    "person": lambda name: head_of(name) in PEOPLE,
    "item": lambda name: not is_person(name),
    "second_item": lambda name: not is_person(name),
    "creature": _is_creature,
    "opening": lambda name: _last(name) in _OPENS,
    "vessel": lambda name: _last(name) in _HOLDS,
    "object": lambda name: True,
    "other": lambda name: True,
}
# What a slot may be filled with; those of the image itself have nothing here.
SLOTS: dict[str, Callable[[Scene], list[str]]] = {
    "thing": lambda scene: [*words_of("add")(scene), *things_of("household", "furniture", "street", "toys")(scene)],
    "animal": things_of("animals", "birds"),
    "vehicle": things_of("vehicles"),
    "food": things_of("food", "fruit", "vegetables", "drinks"),
    "furniture": things_of("furniture"),
    "plant": things_of("plants", "flowers"),
    "skything": things_of("sky"),
    "wearable": things_of("headwear", "wearables"),
    "holdable": things_of("drinks", "flowers", "instruments", "sports", "stationery"),
    "garment": things_of("garments"),
    "costume": things_of("costumes"),
    "scene": words_of("background"),
    "color": words_of("color"),
    "other_color": words_of("color"),
    "material": words_of("material"),
    "state": words_of("adjust.states"),
    "pattern": words_of("adjust.patterns"),
    "style": lambda scene: [with_article(style) for style in words_of("style")(scene)],
    "mood": words_of("tone"),
    "motion": words_of("motion"),
    "look": words_of("portrait"),
    "hair": words_of("hair"),
    "fabric": words_of("fabric"),
    "stuff": words_of("stuff"),
    "view": words_of("view"),
    "city": words_of("city"),
    "room": words_of("room"),
    "sky": words_of("sky"),
    "newtext": words_of("newtext"),
    "place": lambda scene: list(_PLACES),
    "text": lambda scene: list(scene.texts),
    "needed": lambda scene: [],
    **dict.fromkeys(POOLS, lambda scene: []),
}


@functools.cache
def experts(folder: str | Path = FOLDER) -> dict[str, Expert]:
    """The library of a folder, by task. Raises UsageError for what cannot be used."""
    found = {}
    for path in sorted(Path(folder).glob("*.toml")):
        where = f"--library {path}"
        try:
            made = read_settings(Expert, tomllib.loads(path.read_text(encoding="utf-8")), where)
            primitives = made.primitives
            for one in primitives.values():
                _ = parse(one.say)
                if "needed" in slots_in(one.say) and not one.needs:
                    raise ValueError(f"<needed> without `needs`: {one.say}")
        except (OSError, ValueError, GrammarError) as error:
            raise UsageError(f"{where}: {error}") from error
        unknown = {slot for one in primitives.values() for slot in slots_in(one.say)} - SLOTS.keys()
        if unknown or path.stem not in TASKS:
            what = f"no slot <{sorted(unknown)[0]}>" if unknown else f"no task `{path.stem}`"
            raise UsageError(f"{where}: there is {what}", hint=", ".join(SLOTS if unknown else TASKS))
        found[path.stem] = made
    if not found:
        raise UsageError(f"--library {folder}: no TOML file of an expert there")
    return found


def slots_in(pattern: str) -> list[str]:
    """The names of a pattern's slots."""
    return list(dict.fromkeys(re.findall(r"<([a-z_]+)", pattern)))


def asked_of(scene: Scene, task: str, expert: Expert, rng: np.random.Generator) -> Iterator[FilledPrimitive]:
    """An instruction by every primitive that the image has what it takes for: its objects, its texts, its pictures."""
    for name, primitive in expert.primitives.items():
        needed = next((word for word in primitive.needs if _has(scene.known, word)), None)
        if primitive.images != 1 + len(scene.references) or (primitive.needs and needed is None):
            continue
        filled = _filled(scene, slots_in(primitive.say), rng, needed)
        if filled is None:
            continue
        slots, region = filled
        words = {slot: Literal(value) for slot, value in slots.items()}
        yield FilledPrimitive(task, name, sentence(say([primitive.say], words, "en", rng), "en"), slots, region)


def _filled(
    scene: Scene, slots: Sequence[str], rng: np.random.Generator, needed: str | None = None
) -> tuple[dict[str, str], Region | None] | None:
    """A value for every slot, and the region of <object>; None where the image lacks one."""
    named = scene.named()
    found: dict[str, str] = {}
    taken: dict[str, Region] = {}
    # What few objects will do for is chosen first.
    for slot in sorted(slots, key=lambda slot: slot in ("object", "other")):
        if slot == "needed" and needed is not None:
            found[slot] = needed
            continue
        if slot in POOLS:
            free = [
                one for one in named
                if POOLS[slot](one.name) and not any(_one_thing(one, other) for other in taken.values())
            ]  # fmt: skip
            if not free:
                return None
            taken[slot] = free[int(rng.integers(len(free)))]
            found[slot] = referred(scene, taken[slot])
            continue
        said = {value.casefold() for value in found.values()}
        values = [value for value in scene.unseen(SLOTS[slot](scene)) if without_article(value).casefold() not in said]
        if not values:
            return None
        found[slot] = draw(rng, values)
    return found, taken.get("object")


def _one_thing(one: Region, other: Region) -> bool:
    return one is other or (one.category is not None and one.category == other.category)


def referred(scene: Scene, region: Region) -> str:
    """The name of an object; where others have the same, with its place."""
    same = [one for one in scene.regions if one.name.casefold() == region.name.casefold()]
    return region.name if len(same) <= 1 else f"{region.name} {place(region.box)}"


def who_can(
    instruction: str, library: Mapping[str, Expert], task: str | None = None, images: int | None = None
) -> tuple[str, str]:
    """The task and the primitive of a request. A primitive counts by the longest of its triggers in the request and the
    longest word that its slots may take; the first of a task, which is the general one, only where no other has any.
    Raises RowError for a request that no expert is for, or that the expert of its task refuses. `images` is how many
    pictures there are.
    """
    said = instruction.casefold()
    known = _slots_said(said)
    candidates = {task: library[task]} if task is not None and task in library else library
    best: tuple[int, str, dict[str, int]] = 0, "", {}
    for name, expert in dict(candidates).items():
        compound = name == "hybrid" and task != name  # whose parts are others' work
        if compound or any(_has(said, word) for word in expert.cannot):
            continue
        found = {
            primitive: _evidence(said, one, known)
            for primitive, one in expert.primitives.items()
            if images is None or one.images <= images
        }
        best = max(best, (max(found.values(), default=0), name, found), key=lambda one: one[0])
    longest, name, found = best
    if not longest:
        raise RowError("no expert can do it", instruction)
    general, *special = found
    chosen = max(special, key=lambda one: found[one], default=general)
    return name, chosen if found.get(chosen) else general


def _evidence(said: str, primitive: Primitive, known: Mapping[str, int]) -> int:
    """Characters of a request that speak for a primitive: its longest trigger, and a word for one of its slots."""
    trigger = max((len(word) for word in primitive.triggers if _has(said, word)), default=0)
    return trigger and trigger + max((known[slot] for slot in slots_in(primitive.say)), default=0)


def _slots_said(said: str) -> dict[str, int]:
    """Of every slot the length of the longest word in a request that it may take."""
    nothing = Scene(np.zeros((1, 1, 3), np.uint8))
    return {
        slot: max((len(word) for word in map(without_article, find(nothing)) if _has(said, word)), default=0)
        for slot, find in SLOTS.items()
    }


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words.casefold())}(?!\w)", text) is not None
