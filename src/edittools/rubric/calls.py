"""What a judge is sent: a case, the calls that a rubric makes of it, and how images are encoded.

A call says which texts and images go into one user message, in which order, and how each image is encoded,
because scores move with all three. A benchmark's texts are read from the user's checkout of it (prompts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edittools.errors import EditError, RowError, describe
from edittools.vlm import EncodedImage
from edittools.vlm.images import Encoding

Prompts = Mapping[str, str]


@dataclass(frozen=True)
class JudgedTurn:
    """One turn of a dialogue: what was asked, and the image that came of it, out of that of turn `parent` (from 0;
    -1 is the source)."""

    instruction: str
    kind: str | None
    parent: int
    edited: bytes = field(repr=False)


@dataclass(frozen=True)
class JudgedEdit:
    """One edit to be judged: encoded images as they lie on the disk, and what was asked for.

    `task` is the name that the prompts know. `other` is a second result (pairwise), `turns` are those of a dialogue
    (multiturn). `facts` are what a benchmark says beyond that, under its own names, and the `category`; images
    among them (`reference_img`, `gt_img`) are bytes.
    """

    task: str
    instruction: str
    sources: tuple[bytes, ...] = field(repr=False)
    edited: bytes = field(repr=False)
    other: bytes | None = field(default=None, repr=False)
    turns: tuple[JudgedTurn, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> bytes:
        if not self.sources:
            raise RowError("no source picture")
        return self.sources[0]


@dataclass(frozen=True)
class Call:
    """One user message. `encoding` says in words how its images were encoded."""

    name: str
    parts: tuple[str | EncodedImage, ...]
    encoding: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The texts of the message, joined by newlines: what a prompt hash is taken of."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


def text_of_task(prompts: Prompts, task: str) -> str:
    """The text of a task. Raises RowError without one: the released scripts lose that case only, too."""
    if task not in prompts:
        raise RowError("the prompts have no text for this task", task)
    return prompts[task]


def named_text(prompts: Prompts, name: str) -> str:
    if name not in prompts:
        raise EditError(f"the prompts have no text `{name}`", hint="they have: " + ", ".join(sorted(prompts)))
    return prompts[name]


def absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def reference_bytes(value: Any) -> bytes:
    """An image among the facts. Raises RowError for a name: what it names has to be read first."""
    if not isinstance(value, bytes):
        raise RowError("reference picture was not read", value)
    return value


def filled(prompts: Prompts, name: str, **values: object) -> str:
    try:
        return named_text(prompts, name).format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise EditError(f"prompt `{name}` cannot be filled in: {describe(error)}") from None


def labelled_images(case: JudgedEdit, encoding: Encoding) -> tuple[str | EncodedImage, ...]:
    """The sources, numbered where there are several, and the edited image, each after a line that names it."""
    parts: list[str | EncodedImage] = []
    count = len(case.sources)
    if not count:
        raise RowError("no source picture")
    for number, data in enumerate(case.sources, 1):
        which = f", {number} of {count}" if count > 1 else ""
        parts += [f"Before the edit{which}:", encoding.image(data)]
    return (*parts, "After the edit:", encoding.image(case.edited))
