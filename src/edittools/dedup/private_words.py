"""What of private rows can be said in letters: ids, paths, names of files, hashes, instructions and captions.

Names are looked for as they are spelled. Texts are compared without case, spaces and punctuation, in the compatibility
form of Unicode: a text that is the private one, or, of a private text of 16 bytes and more, one that has it inside.
"""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from edittools.stream.rows import column_values

_SAID = ("instruction", "caption")  # columns whose names begin so, and in turns
INSIDE = 16  # bytes of a normalised text that is looked for inside of others
_MOST_TEXT = 64 << 20  # bytes of a file or member that is read as text


def normalised(text: str) -> str:
    """Its letters and digits, folded."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).casefold() if sign.isalnum())


class PrivateWords:
    """The names and texts of private rows; `find` says which of them a text has."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # -> its row
        self.texts: dict[str, str] = {}  # normalised -> its row
        self.spelled: dict[str, str] = {}  # as they stand -> normalised
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
                    if key := normalised(text):
                        self.texts.setdefault(key, identity)
                        self.spelled.setdefault(text, key)

    def add_name(self, name: Any, identity: str, shortest: int) -> None:
        # `1` and `001.png` are found everywhere, and so is what has few digits and nothing else
        if isinstance(name, str) and len(name) >= (12 if name.partition(".")[0].isdecimal() else shortest):
            self.names.setdefault(name, identity)

    def finish(self, texts: bool) -> None:
        """All rows are known: a file's name that several have (`original.png`) says nothing. `texts`: whether
        instructions and captions are looked for."""
        for name, times in self._files.items():
            if times == 1:
                self.add_name(name, self._rows[name], 8)
        if not texts:
            self.texts, self.spelled = {}, {}

    def find(self, values: Iterable[str]) -> list[str]:
        """What is found in texts, in words."""
        values = list(values)
        together = "\n".join(values)
        found = [f"{name} of the private rows" for name in self.names if name in together]
        keys = [normalised(value) for value in values]
        whole, joined = set(keys), "\n".join(keys)
        for key, identity in self.texts.items():
            if key in whole or (len(key.encode()) >= INSIDE and key in joined):
                found.append(f"the words of the private row {identity}")
        return found


def _said(column: str, value: Any) -> Iterator[str]:
    """The instructions and captions of a row's column."""
    if column.startswith(_SAID):
        yield from texts_of(value)
    elif column == "turns":
        for turn in value or ():
            for name, inner in (turn or {}).items():
                yield from _said(name, inner) if name != "turns" else ()


def texts_of(value: Any) -> Iterator[str]:
    """All text of a row; of an image none but the file that it is in."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("bytes", "etag"):
                yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


def texts_in_file(path: str) -> Iterator[tuple[str, list[str]]]:
    """The texts of a file, or of the members of an archive, with their place; names of members are texts too."""
    yield path, [path]
    if tarfile.is_tarfile(path):
        with contextlib.suppress(tarfile.TarError, EOFError, OSError), tarfile.open(path) as archive:
            for member in archive:
                data = archive.extractfile(member) if member.isfile() and member.size <= _MOST_TEXT else None
                yield f"{path}: {member.name}", [member.name, *_lines(data.read() if data is not None else b"")]
    elif zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile, RuntimeError, OSError), zipfile.ZipFile(path) as zipped:
            for entry in zipped.infolist():
                inside = zipped.read(entry) if entry.file_size <= _MOST_TEXT else b""
                yield f"{path}: {entry.filename}", [entry.filename, *_lines(inside)]
    else:
        with open(path, "rb") as file:
            head = file.read(4096)
            if b"\0" not in head:
                yield path, _lines(head + file.read(_MOST_TEXT))


def _lines(data: bytes) -> list[str]:
    """The texts of a member: strings of JSON and JSON lines, else lines; none of what is no text."""
    if b"\0" in data[:4096]:
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if text[:1] not in ("{", "["):
        return [text, *text.splitlines()]
    with contextlib.suppress(ValueError, RecursionError):
        return [text, *texts_of(json.loads(text))]
    found = [text]
    for line in io.StringIO(text):
        try:
            found += texts_of(json.loads(line))
        except (ValueError, RecursionError):
            found.append(line)
    return found
