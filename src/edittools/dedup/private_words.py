"""What of private rows can be said in letters: ids, paths, names of files, hashes, instructions and captions.

Names are looked for as they are spelled, with no letter or digit of ASCII at either end. Texts are compared without
case, spaces and punctuation, in the compatibility form of Unicode: a text that is the private one, or, of a private
text of 16 bytes and more, one that has it inside. Less than 12 bytes (`crop`) say nothing outside of instructions.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from edittools.stream.rows import column_values

_SAID = ("instruction", "caption")  # columns whose names begin so, and in turns
INSIDE = 16  # bytes of a normalised text that is looked for inside of others
_WHOLE = 12  # of one that is looked for in all columns
_DETAIL = 32  # of one in a structured caption, whose shorter ones (`a white shirt`) many images share
_FREE = ("appearance", "action", "setting", "visible_text")  # fields of a structured caption that are no labels
_LONG = 32  # letters of a name, a hash most often, that is found inside of other words too
_ROLE = re.compile(  # what files are called everywhere
    r"(?:source|target|image|original|edited|input|output|before|after|mask|result|photo|picture)[\W_]*\d{0,3}\.\w+",
    re.IGNORECASE,
)


def normalised(text: str) -> str:
    """Its letters and digits, folded."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).casefold() if sign.isalnum())


def alone(text: str | bytes, start: int, stop: int) -> bool:
    """Whether a name at this place is no part of a longer word. Scripts without spaces have no such ends."""
    around = (text[max(start - 1, 0) : start], text[start : start + 1]), (text[stop - 1 : stop], text[stop : stop + 1])
    return stop - start >= _LONG or not any(all(one.isascii() and one.isalnum() for one in pair) for pair in around)


def has_name(text: str, name: str) -> bool:
    """Whether a name stands in a text.

    >>> has_name("image1.png", "image1"), has_name("image12.png", "image1")
    (True, False)
    """
    start = text.find(name)
    while start >= 0:
        if alone(text, start, start + len(name)):
            return True
        start = text.find(name, start + 1)
    return False


class PrivateWords:
    """The names and texts of private rows; `find` says which of them a text has."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # -> its row
        self.texts: dict[str, str] = {}  # normalised -> its row
        self.spelled: dict[str, str] = {}  # as they stand -> normalised
        self.short: dict[str, str] = {}  # instructions that are looked for in instructions alone
        self._files = Counter[str]()
        self._rows: dict[str, str] = {}  # name of a file -> its row

    def add(self, rows: pa.RecordBatch) -> None:
        ids = [str(identity) for identity in column_values(rows, "id")]
        given = column_values(rows, "user_id")
        for identity, own, origin in zip(ids, given, column_values(rows, "provenance")):
            told = origin if isinstance(origin, dict) else {}
            for name, shortest in ((identity, 6), (own, 6), (told.get("path"), 12), (told.get("sha256"), 64)):
                self.add_name(name, identity, shortest)
            path = told.get("path")
            if isinstance(path, str) and (name := posixpath.basename(path.replace("\\", "/").partition("#")[0])):
                self._files[name] += 1
                self._rows[name] = identity
        for column in rows.schema.names:
            for identity, value in zip(ids, column_values(rows, column)):
                for text in _said(column, value):
                    if len((key := normalised(text)).encode()) >= _WHOLE:
                        self.texts.setdefault(key, identity)
                        self.spelled.setdefault(text, key)
                for key in map(normalised, instructions_of(column, value)):
                    if key and key not in self.texts:
                        self.short.setdefault(key, identity)

    def add_name(self, name: Any, identity: str, shortest: int) -> None:
        # `1` and `001.png` are found everywhere, and so is what has few digits and nothing else
        if isinstance(name, str) and len(name) >= (12 if name.partition(".")[0].isdecimal() else shortest):
            self.names.setdefault(name, identity)

    def finish(self, texts: bool) -> None:
        """All rows are known: a file's name that several have (`original.png`) says nothing, nor does
        that of a role (`source.jpg`). `texts`: whether instructions and captions are looked for."""
        for name, times in self._files.items():
            if times == 1 and not _ROLE.fullmatch(name):
                self.add_name(name, self._rows[name], 8)
        if not texts:
            self.texts, self.spelled, self.short = {}, {}, {}

    def find(self, values: Iterable[str], instructions: Iterable[str] = ()) -> list[str]:
        """What is found in texts, in words; `instructions` are those among them that are one."""
        values = list(values)
        together = "\n".join(values)
        found = [f"{name} of the private rows" for name in self.names if has_name(together, name)]
        keys = [normalised(value) for value in values]
        whole, joined = set(keys), "\n".join(keys)
        for key, identity in self.texts.items():
            if key in whole or (len(key.encode()) >= INSIDE and key in joined):
                found.append(f"the words of the private row {identity}")
        told = sorted(set(map(normalised, instructions)) & self.short.keys()) if self.short else ()
        return found + [f"the words of the private row {self.short[key]}" for key in told]


def _said(column: str, value: Any) -> Iterator[str]:
    """The instructions and captions of a row's column."""
    if column == "caption_structured":
        yield from (text for text in _free_texts(value) if len(normalised(text).encode()) >= _DETAIL)
    elif column.startswith(_SAID):
        yield from texts_of(value)
    elif column == "turns":
        for turn in value or ():
            for name, inner in (turn or {}).items():
                yield from _said(name, inner) if name != "turns" else ()


def _free_texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts_of(inner) if name in _FREE else _free_texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _free_texts(inner)


def instructions_of(column: str, value: Any) -> Iterator[str]:
    """The instructions of a row's column, those of its turns too."""
    if column.startswith("instruction"):
        yield from texts_of(value)
    elif column == "turns":
        for turn in value or ():
            for name, inner in (turn or {}).items():
                yield from instructions_of(name, inner) if name != "turns" else ()


def texts_of(value: Any) -> Iterator[str]:
    """All text of a row; of an image none but the file that it is in."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("bytes", "etag"):
                yield from texts_of(inner)
    elif isinstance(value, (list, tuple)):  # tuples: the pairs of a map
        for inner in value:
            yield from texts_of(inner)
