"""The records of the synthesis library: what a template declares and what a sample holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edittools.seeded import draw
from edittools.synth.fonts import Fonts, find_fonts

MIN_SIDE = 16  # pixels; below this nothing named in words can be seen


class Inapplicable(Exception):
    """Raised by a template that does not fit an image; the message is the reason that is counted."""


@dataclass(frozen=True)
class Tools:
    """Resources of templates: fonts, and the user's meshes."""

    fonts: Fonts = field(default_factory=find_fonts)
    meshes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Source and target, uint8 HxWx3, of a template that builds its source too."""

    source: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Template:
    """One kind of edit, read from the file templates/<name>.py.

    A module declares, in capitals: TASK, LOCAL (only a region changes), INSTRUCTION and DETAIL
    (language -> grammar patterns; INSTRUCTION are imperatives that start with a verb, DETAIL says what
    the target looks like), and optionally KEEPS (what stays the same, if the usual sentence would be
    wrong), EFFECT (language -> a regular expression that finds whether somebody else's words tell this edit, where its
    slots alone do not say), INVERSE (the template whose wording fits when source and target are swapped) and
    RENDERED (it needs a renderer, and is made only where it is named).

    Functions: `slots(image, rng, tools)` draws a JSON-able dict or raises Inapplicable;
    `apply(image, slots, tools)` gives the exact target, or a Pair where the source is made as well;
    optional `invert_slots(slots)` turns the slots into those of the inverse edit.
    """

    name: str
    task: str
    local: bool
    instruction: dict[str, list[str]]
    detail: dict[str, list[str]]
    keeps: dict[str, list[str]]
    effect: dict[str, str]
    inverse: str | None
    slots: Callable[[np.ndarray, np.random.Generator, Tools], dict]
    apply: Callable[[np.ndarray, dict, Tools], "np.ndarray | Pair"]
    invert_slots: Callable[[dict], dict]

    def pair(self, image: np.ndarray, slots: dict, tools: Tools) -> Pair:
        """Source and target; the source is the image itself unless the template makes one."""
        result = self.apply(image, slots, tools)
        return result if isinstance(result, Pair) else Pair(image, result)


@dataclass(frozen=True)
class DialogueTurn:
    """One turn of a dialogue. `parent` is the turn whose target it edits; -1 is the original image."""

    parent: int
    kind: str  # content_memory, content_understanding or version_backtracking
    task: str
    template: str
    instruction: dict[str, str]  # language -> sentence
    target: np.ndarray  # uint8 HxWx3
    mask: np.ndarray  # uint8 HxW, 0/255: what differs from the parent's image
    slots: dict


@dataclass(frozen=True)
class SynthSample:
    """One edit made from one image. `source is image` unless the template built its own source."""

    template: str
    task: str
    source: np.ndarray  # uint8 HxWx3
    target: np.ndarray  # uint8 HxWx3, same shape
    mask: np.ndarray  # uint8 HxW, 0/255: exactly the pixels that differ
    instruction: dict[str, str]  # language -> sentence
    slots: dict  # JSON-able; captions are made from these
    turns: list[DialogueTurn] | None = None  # dialogues only


def mask_of(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """uint8 HxW, 255 where any channel differs. An edit that changes nothing is Inapplicable."""
    mask = np.any(source != target, axis=-1).astype(np.uint8) * np.uint8(255)
    if not mask.any():
        raise Inapplicable("no visible change")
    return mask


STRENGTHS = ("slight", "medium", "strong")


def no_slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """`slots` of a template that has none."""
    return {}


def draw_strength(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    """`slots` of a template that has only a strength."""
    return {"strength": draw(rng, STRENGTHS)}
