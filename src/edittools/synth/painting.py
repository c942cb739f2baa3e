"""What painted tasks share: the objects of an image, and the plan of one edit. A task is one file of painted/.

A module declares, in capitals:

    TASK     its canonical task
    HELP     what the manual says of it
    PROMPT   whether its painter has to take a prompt
    INVERSE  the task that source and target exchanged are, where there is one
    CONTROL  the structure map that it draws itself for a painter that follows one, such as "pose"
    BARE     it looks for what it edits itself, in rows without objects too
    INSTRUCTS  it is done by an editing model, which follows the instruction
    SHOWS    its painter has to take a reference, an image that the paint is to be like

`plans(scene, rng)` gives the edits that it would make, best first.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edittools.caption.grammar import Literal, sentence
from edittools.caption.grammar import with_article as with_article
from edittools.caption.grammar import without_article as without_article
from edittools.caption.wording import say
from edittools.painters.canvas import Brush
from edittools.seeded import draw

_GRAY = 4  # levels between the channels of a pixel
_DARK = 50  # mean level


@dataclass(frozen=True)
class Region:
    """An object of the image."""

    name: str
    mask: np.ndarray  # bool HxW
    box: tuple[float, float, float, float]  # shares
    category: str | None = None  # of a tag: two of one may be names of one thing


@dataclass(frozen=True)
class Scene:
    """An image, its objects, and what is to take their place."""

    image: np.ndarray  # uint8 HxWx3
    regions: tuple[Region, ...] = ()
    words: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)  # by task and kind: what to ask for
    caption: str = ""  # what the image shows
    texts: tuple[str, ...] = ()  # what is written in it
    tags: Mapping[str, str | None] = field(default_factory=dict)  # names of what it shows, wherever, by category
    references: tuple[np.ndarray, ...] = ()  # the row's further images, "Figure 2" first
    prompts: bool = True  # whether the painter takes a prompt
    instruction: str = ""  # the row's own, where it has one
    edits: tuple[str, ...] = ()  # and the atomic edits that it comes to, where they are known
    task: str | None = None
    experts: Mapping[str, Any] = field(default_factory=dict)  # edittools.synth.experts.Expert by task
    style: str = ""  # and how it is made, such as "watercolor"; of a photograph nothing

    @functools.cached_property
    def known(self) -> str:
        """What is known of it, in small letters: the names of its objects, its tags, its caption; and in brackets, as
        no caption has it ("a black-and-white dog", "dark eyes"), what is seen of the whole: [gray picture], [dark
        picture], [stylised picture]."""
        names = [*(region.name for region in self.regions), *self.tags, self.caption]
        names += ["written text"] if self.texts else []
        some = self.image[::8, ::8].astype(np.int16)
        names += ["[gray picture]"] if np.ptp(some, axis=2).max(initial=0) < _GRAY else []
        names += ["[dark picture]"] if some.size and some.mean() < _DARK else []
        names += ["[stylised picture]"] if self.style else []
        return "; ".join(names).casefold()

    def wanted(self, task: str) -> list[str]:
        """What a task may ask for."""
        return [word for some in self.words.get(task, {}).values() for word in some]

    def named(self) -> list[Region]:
        """The objects that have a name; where none has, what the tags name, anywhere in the image."""
        found = [region for region in self.regions if region.name]
        if found or not self.tags:
            return found
        everywhere = np.ones(self.image.shape[:2], bool)
        return [Region(name, everywhere, (0.0, 0.0, 1.0, 1.0), category) for name, category in self.tags.items()]

    def unseen(self, words: Sequence[str]) -> list[str]:
        """The words for what the image does not show yet, as far as its objects and tags say."""
        shown = {name.casefold() for name in (*(region.name for region in self.regions), *self.tags)}
        return [word for word in words if without_article(word).casefold() not in shown]

    def told_apart(self) -> list[Region]:
        """The objects whose name alone says which is meant."""
        counts = Counter(region.name.casefold() for region in self.regions)
        return [region for region in self.regions if region.name and counts[region.name.casefold()] == 1]


@dataclass(frozen=True)
class Plan:
    """One edit: what is painted, and how it is said."""

    mask: np.ndarray  # bool HxW
    brush: Brush
    instruction: str
    slots: Mapping[str, object]  # JSON-able
    prompt: str = ""
    negative: str = ""
    inverse: str | None = None  # the instruction of the way back
    gone: str = ""  # the name of what is not to be found there afterwards
    there: str = ""  # and of what is
    look: str = ""  # what the place is to look like, in words, where that is not `there`
    outlines: bool = False  # whether it keeps its outlines
    text: str | None = None  # what is to read there
    made: np.ndarray | None = None  # uint8 HxWx3: laid instead of paint, by a task that needs no painter
    control: np.ndarray | None = None  # uint8 HxWx3, a structure map of the image as it is to become
    guide: np.ndarray | None = None  # uint8 HxWx3: what the painter is shown, part by part, in place of other images
    references: tuple[np.ndarray, ...] = ()  # images that the instruction of the way back speaks of, beside the source
    backwards: bool = False  # only the way back is a pair
    task: str | None = None  # where it is not the module's
    numbers: str = ""  # the painted task whose --tune it is painted by, where that is not its own
    steps: tuple[PlanStep, ...] = ()  # of an edit that is several ones; the mask is that of all of them
    turns: tuple[Turn, ...] = ()  # of a dialogue; `source` is the step that it begins with
    source: int = -1
    place: tuple[float, float, float, float] | None = (
        None  # shares: where `gone` was, `text` is; if not all over the paint
    )

    @property
    def chain(self) -> tuple[PlanStep, ...]:
        """Its steps; a plain edit is one."""
        return self.steps or (PlanStep(self),)


@dataclass(frozen=True)
class PlanStep:
    """One of several edits: of the photograph, or of what an earlier step made."""

    plan: Plan
    parent: int = -1  # number of that step; -1 is the photograph


@dataclass(frozen=True)
class Turn:
    """A turn of a dialogue. Its image is a step's, or the photograph."""

    step: int  # -1 is the photograph
    parent: int  # number of the turn that it edits; -1 is the source
    kind: str  # as in edittools.record.DIALOGUE_KINDS
    task: str
    instruction: str


def altered(
    scene: Scene,
    rng: np.random.Generator,
    task: str,
    said: list[str],
    phrase: Callable[[str, str], str],
    *,
    people: bool = False,
) -> list[Plan]:
    """Plans that give every object, or every person, another look, the outlines kept; `phrase(noun, word)` is what is
    painted."""
    words, found = scene.wanted(task), []
    for region in scene.told_apart():
        if is_person(region.name) != people or not words or not _LEAST_OBJECT <= region.mask.mean() <= _MOST_OBJECT:
            continue
        word = draw(rng, [one for one in words if one.casefold() not in region.name.casefold()] or words)
        look, slots = phrase(region.name, word), {"object": region.name, task: word}
        grow = max(2, round(_GROW * min(scene.image.shape[:2])))
        found.append(
            Plan(
                region.mask,
                Brush(grow, grow, 1.5),
                worded(said, rng, object=region.name, word=word),
                slots,
                prompt=look,
                look=look,
                outlines=True,
            )
        )
    return found


PEOPLE = frozenset(
    "person people man men woman women boy boys girl girls child children kid kids toddler baby babies lady ladies "
    "gentleman guy bride groom player players soldier soldiers officer firefighter surfer skier rider cyclist "
    "pedestrian pedestrians tourist chef waiter waitress nurse doctor teacher student students dancer singer musician "
    "worker workers farmer fisherman athlete athletes couple crowd".split()
)
_SEVERAL = frozenset("group pair row team line family".split())


def head_of(name: str) -> str:
    """The noun that a name is about: "man" of "old man in a red coat", "carriage" of "baby carriage"."""
    first, *rest = re.split(r" (?:in|with|of|on|at|holding|wearing|who|that) ", name.casefold().strip())
    head = first.split(" ")[-1]
    return rest[0].split(" ")[-1] if head in _SEVERAL and rest else head


def is_person(name: str) -> bool:
    """Whether an object is a person, or a face: no thing, to be painted or made of wood."""
    return head_of(name) in PEOPLE | {"face"}


_LEAST_OBJECT, _MOST_OBJECT = 0.01, 0.6  # share of the image (ImgEdit's gate on objects)
_GROW = 8 / 1024  # of the shorter side


def apart(one: Region, other: Region, shape: tuple[int, ...], pixels: float = 100) -> bool:
    """Whether the boxes of two objects lie so many pixels apart, at a shorter side of 1024 (ImgEdit's rule for
    hybrids)."""
    height, width = shape[:2]
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box, other.box
    gap = max(0.0, u0 - x1, x0 - u1) * width, max(0.0, v0 - y1, y0 - v1) * height
    return float(np.hypot(*gap)) >= pixels * min(height, width) / 1024


def worded(patterns: list[str], rng: np.random.Generator, **slots: str) -> str:
    """One of the patterns as an English sentence (edittools.caption.grammar); slots are words as they are."""
    return sentence(say(patterns, {name: Literal(text) for name, text in slots.items()}, "en", rng), "en")


def place(box: Sequence[float]) -> str:
    """Where a box is, in thirds of the image as one sees it."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    across = ("on the left", "in the middle", "on the right")[min(2, int(3 * x))]
    upright = ("at the top", "", "at the bottom")[min(2, int(3 * y))]
    if across == "in the middle":
        return upright or across
    return f"{upright} {across}".strip() if upright else across
