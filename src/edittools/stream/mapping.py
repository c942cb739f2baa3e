"""What the user says of an input's columns: `--map NEW=OLD`, and `--image COLUMN` for one that holds pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS
from edittools.stream import columns

PICTURES = ("source", "target", "mask")  # the record's own columns of pictures
SHAPES = {
    "source": "takes a picture, or a list of them",
    "target": "takes a picture",
    "mask": "takes a picture",
    "instruction": 'takes text, or {"en": text, "zh": text}',
    "caption": 'takes text, or {"en": text, "zh": text}',
}


class Mapping:
    """New names of columns, and which of them are pictures. Says whether it could be carried out (`check`)."""

    def __init__(self, renames: Iterable[tuple[str, str]] = (), images: Iterable[str] = ()) -> None:
        """`renames` are (new, old) pairs. Raises UsageError for two that contradict each other."""
        self.renames: dict[str, str] = {}
        for new, old in renames:
            if old in self.renames:
                raise UsageError(f"--map {new}={old}: `{old}` is to be `{self.renames[old]}` already")
            if new in self.renames.values():
                raise UsageError(f"--map {new}={old}: both would be called `{new}`")
            self.renames[old] = new
        self.said = dict(self.renames)
        self.gives_ids = "id" in self.renames.values()
        if self.gives_ids:
            self.renames.setdefault("id", "user_id")
        named = {old for old, new in self.renames.items() if new in PICTURES or new == "result"}
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
                if not columns.all_pictures(value):
                    self.unfit[old] = kind_of(value)
                    raise RowError(f"`{old}` holds no picture", self.unfit[old])
                self.fitted[old] += 1

    def check(self, typed: Iterable[str]) -> None:
        """Raises UsageError for what could not be carried out. `typed` are the columns of inputs that declare them, and
        are renamed later."""
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
                raise UsageError(f"--image {name}: `{name}` is {self.unfit[name]}, no picture and no path of one here")


def refusal(new: str, old: str, kind: str) -> UsageError:
    """That a column cannot become one of the record."""
    return UsageError(f"--map {new}={old}: `{old}` is {kind}, and `{new}` {SHAPES.get(new, f'is {COLUMNS[new]}')}")


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, list):
        return f"a list of {kind_of(value[0]).split(' ', 1)[-1]}s" if value else "an empty list"
    names = {str: "a text", bool: "a truth value", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "bytes")
