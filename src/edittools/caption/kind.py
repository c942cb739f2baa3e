"""What a kind of caption is: a conversation with a model about one row, and the columns that come of it.

A kind is one file in `kinds/`, or the user's own (a Python file like those, or a table in TOML, see load.py). It
holds `KIND`, a Kind, whose `converse` reads like the conversation: it yields Questions, gets the checked JSON of each
answer, and returns the values of its columns.

    def converse(row):
        answer = yield Question((row.look(),), "Name the animal.", record(animal=text("its name")))
        return {"animal": answer["animal"]}
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from edittools.caption.schemas import Schema
from edittools.errors import RowError
from edittools.record import likely_tags
from edittools.registry import Registry
from edittools.seeded import stream

if TYPE_CHECKING:
    from edittools.caption.config import CaptionConfig

KINDS = Registry("edittools.caption.kinds", "edittools.caption_kinds")

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of width and height."""


@dataclass(frozen=True)
class Look:
    """An image of the row as the model is shown it: which one, how it is introduced, which part, mirrored or not."""

    column: str  # source, target, or another column of images
    label: str = ""  # how the prompt calls it
    number: int = 0  # of a column of several
    box: Box | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class Question:
    """One user message: images first, then the text; the answer is JSON by `schema`.

    `check` raises ValueError that says what is wrong with a value the schema takes; then it is asked for again, with
    these words. `model` is who is asked, if not the first of --model.
    """

    looks: tuple[Look, ...]
    text: str
    schema: Schema
    check: Callable[[Any], Any] | None = None
    model: str | None = None
    max_tokens: int = 1024
    examples: bool = False  # whether the user's examples (--examples) are shown with it


class Eliminated(RowError):
    """The row itself is not wanted: what the conversation showed about it (reason, value)."""


class NotAsked(RowError):
    """This kind has no question about the row, and says why: its columns are null."""


Conversation = Generator[Question, Any, Mapping[str, Any]]
"""Yields questions, is sent answers, returns values by column (a missing one is null; `scores` is a table of numbers).
Raises NotAsked, or Eliminated for a row that is to be rejected."""


@dataclass(frozen=True)
class Kind:
    """A kind of caption. `columns` may depend on the settings (on the languages, mostly)."""

    summary: str
    reads: str  # what it looks at: "image", "pair", "text", ...
    columns: Mapping[str, pa.DataType] | Callable[[CaptionConfig], Mapping[str, pa.DataType]]
    converse: Callable[[Row], Conversation]
    after: tuple[str, ...] = ()  # kinds whose columns it reads: these are answered first, where both are asked for
    needs: tuple[str, ...] = ()  # columns without which there is nothing to ask
    scores: tuple[str, ...] | Callable[[CaptionConfig], tuple[str, ...]] = ()
    asks: bool = True  # False: its conversation has no questions
    answer: Callable[[Row], Any] | None = None  # what its first answer was, as the columns tell; None where they do not
    distinct: str = ""  # the text of which --max-copies rows of a shard may have nearly the same

    def scores_of(self, config: CaptionConfig) -> tuple[str, ...]:
        return self.scores(config) if callable(self.scores) else self.scores

    def writes(self, config: CaptionConfig) -> Mapping[str, pa.DataType]:
        return self.columns(config) if callable(self.columns) else self.columns


@dataclass
class Row:
    """A row as kinds see it: its values and its images, which are decoded only when a question is made of them."""

    values: dict[str, Any]  # the columns that have no pixels, and what kinds of this run wrote
    images: dict[str, list[dict[str, Any] | None]]  # by column: references
    config: CaptionConfig
    read: Callable[[Row, Look], bytes] | None = None  # gives the bytes of an image

    def data(self, look: Look) -> bytes:
        """The bytes of an image. Raises RowError."""
        if self.read is None:
            raise RowError("no images here")
        return self.read(self, look)

    @property
    def id(self) -> str:
        return str(self.values.get("id"))

    @property
    def languages(self) -> tuple[str, ...]:
        return self.config.language

    def rng(self, *names: object) -> np.random.Generator:
        """A generator that depends on --seed, the row's id and `names` alone."""
        return stream(self.config.seed, self.id, *names)

    def text(self, column: str, language: str | None = None) -> str | None:
        """A text of the row: in the language, or English, or whatever there is."""
        value = self.values.get(column)
        if isinstance(value, dict):
            return value.get(language or "en") or next((text for text in value.values() if text), None)
        return value or None

    def needed_text(self, column: str) -> str:
        """Raises NotAsked."""
        value = self.text(column)
        if value is None:
            raise NotAsked(f"no {column}")
        return value

    def has(self, column: str) -> bool:
        return any(item is not None for item in self.images.get(column, ()))

    def look(self, label: str = "", box: Box | None = None, mirrored: bool = False) -> Look:
        """The image that kinds of one image are about: --column, else the target, else the first source.

        Raises NotAsked where the row has none.
        """
        for column in (self.config.column,) if self.config.column else ("target", "source"):
            if self.has(column):
                return Look(column, label, box=box, mirrored=mirrored)
        raise NotAsked("no image")

    def pair(self, *, mirrored: bool = False, swapped: bool = False) -> tuple[Look, ...]:
        """The first source and the target, as "before" and "after"; further sources as references.

        Raises NotAsked where one of both is missing.
        """
        for column in ("source", "target"):
            if not self.has(column):
                raise NotAsked(f"no {column} image")
        columns = ("target", "source") if swapped else ("source", "target")
        before, after = (Look(c, label, mirrored=mirrored) for c, label in zip(columns, ("before", "after")))
        others = range(1, len(self.images["source"]))
        return (before, *(Look("source", f"reference {k}", k, mirrored=mirrored) for k in others), after)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What is known to be in the image, with boxes in shares of its size."""
        return [item for item in self.values.get("objects") or () if item and item.get("name")]

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The objects; where none is known, what likely tags name, which has no box."""
        return self.objects or likely_tags(self.values.get("tags"))
