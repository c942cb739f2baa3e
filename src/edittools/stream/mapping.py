"""What the user says of an input's columns: `--map NEW=OLD`, and `--image COLUMN` for one that holds images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS
from edittools.stream import columns
from edittools.stream.batch import Reject

IMAGES = ("source", "target", "rejected", "mask")  # the record's own columns of images
SHAPES = {
    "source": "takes an image, or a list of them",
    "target": "takes an image",
    "rejected": "takes an image",
    "mask": "takes an image",
    "instruction": 'takes text, or {"en": text, "zh": text}',
    "caption": 'takes text, or {"en": text, "zh": text}',
}


class Arranges(Protocol):
    """What makes rows of the record of tables that are laid out otherwise, see `layouts.Arrangement`."""

    @property
    def gives_ids(self) -> bool: ...

    def check(self) -> None: ...
    def row(self, record: dict[str, Any], base: str) -> dict[str, Any]: ...
    def schema(self, stored: pa.Schema, name: str) -> pa.Schema: ...
    def part(
        self, rows: pa.RecordBatch, base: str, schema: pa.Schema, label: str
    ) -> tuple[pa.RecordBatch, list[Reject]]: ...
    def by_path(self, stored: pa.Schema, name: str) -> list[str]: ...
    def named_images(self, rows: pa.RecordBatch, base: str, stored: pa.Schema, name: str) -> Iterator[str]: ...


class Mapping:
    """New names of columns, and which of them are images. Says whether it could be carried out (`check`)."""

    def __init__(
        self,
        renames: Iterable[tuple[str, str]] = (),
        images: Iterable[str] = (),
        arrangement: Arranges | None = None,
    ) -> None:
        """`renames` are (new, old) pairs; an `arrangement` is there in their place. Raises UsageError for two that
        contradict each other."""
        self.arrangement = arrangement
        self.renames: dict[str, str] = {}
        for new, old in renames:
            if old in self.renames:
                raise UsageError(f"--map {new}={old}: `{old}` is to be `{self.renames[old]}` already")
            if new in self.renames.values():
                raise UsageError(f"--map {new}={old}: both would be called `{new}`")
            self.renames[old] = new
        self.said = dict(self.renames)
        self.gives_ids = "id" in self.renames.values() or (arrangement is not None and arrangement.gives_ids)
        if "id" in self.renames.values():
            self.renames.setdefault("id", "user_id")
        named = {old for old, new in self.renames.items() if new in IMAGES or new == "result"}
        self.asked_images = frozenset(images)
        self.images = frozenset(images) | named  # by their old names
        self.named: set[str] = set()  # columns that the rows of the inputs have, by their old names
        self.fitted: Counter[str] = Counter()  # values under the record's names that --map gave them
        self.unfit: dict[str, str] = {}  # a kind of value that does not fit there

    def rename(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that others wrote under the new names."""
        self.named.update(row)
        if not self.renames:
            return row
        return {self.renames.get(name, name): value for name, value in row.items()}

    def refuse_unfit(self, row: dict[str, Any]) -> None:
        """Raises RowError where a value that --map put into a column of the record does not fit there."""
        for new in self.said.values():
            if new in COLUMNS and (value := row.get(new)) is not None:
                if not columns.suits(new, value):
                    self.unfit[new] = kind_of(value)
                    raise RowError(f"does not fit `{new}`", self.unfit[new])
                self.fitted[new] += 1
        for old in self.asked_images:
            value = row.get(self.renames.get(old, old))
            if value is not None:
                if not columns.all_images(value):
                    self.unfit[old] = kind_of(value)
                    raise RowError(f"`{old}` holds no picture", self.unfit[old])
                self.fitted[old] += 1

    def check(self, typed: Iterable[str]) -> None:
        """Raises UsageError for what could not be carried out. `typed` are the columns of inputs that declare them, and
        are renamed later."""
        if self.arrangement is not None:
            self.arrangement.check()
        there = {*typed, *self.named}
        has = "it has: " + ", ".join(sorted(there))
        for old, new in self.said.items():
            if old not in there:
                raise UsageError(f"--map {new}={old}: the input has no column `{old}`", hint=has)
            if new in there and new not in self.renames and new not in ("id", "provenance", "task"):
                raise UsageError(f"--map {new}={old}: the input has a column `{new}` already")
            if new in self.unfit and not self.fitted[new]:
                raise refusal(new, old, self.unfit[new])
        for name in sorted(self.asked_images):
            if name not in there:
                raise UsageError(f"--image {name}: the input has no column `{name}`", hint=has)
            if name in self.unfit and not self.fitted[name]:
                raise UsageError(f"--image {name}: `{name}` is {self.unfit[name]}, no image and no path of one here")


def refusal(new: str, old: str, kind: str) -> UsageError:
    """That a column cannot become one of the record."""
    return UsageError(f"--map {new}={old}: `{old}` is {kind}, and `{new}` {SHAPES.get(new, f'is {COLUMNS[new]}')}")


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words."""
    if isinstance(value, list):
        return f"a list of {kind_of(value[0]).split(' ', 1)[-1]}s" if value else "an empty list"
    names = {str: "a text", bool: "a truth value", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "bytes")
