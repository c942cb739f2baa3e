"""JSON lines, a JSON array or object of records, CSV."""

from __future__ import annotations

import array
import io
import itertools
import json
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS, IMAGE
from edittools.stream import columns, files, records, text
from edittools.stream.batch import Reject
from edittools.stream.history import History, digest
from edittools.stream.input_reader import (
    IMAGE_FIELDS,
    Part,
    finish,
    image_at,
    image_bytes,
    is_inline,
    named_as_image,
    other_label,
    parts,
    unchanged,
)
from edittools.stream.mapping import Mapping
from edittools.stream.packed import NameSet

TABLES = ("jsonl", "ndjson")
_SHOWN = IMAGE_FIELDS - {"bytes"}
LISTS = (*TABLES, "json", "csv", "tsv")  # what may name images beside it


def claim(path: str, head: bytes) -> int:
    return 1 if records.reader_for(path, head) is not None else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> LinesReader:
    return LinesReader(path, label=label, mapping=mapping)


class LinesReader:
    """JSON lines, a JSON array or object of records, or CSV.

    Paths are beside the file. In `image` and `file_name` a string is one; in `source`, `target`, `rejected`, `mask` and
    `result` if it ends as an image's name does or a file is there, for it may be a word too, and so in the turns and
    objects of a record; in columns that --map or --image says are images, always. An image may be {"file": PATH}
    too, also in `result_NAME`.
    """

    renamed = True

    def __init__(
        self, path: str, data: bytes | None = None, label: str | None = None, mapping: Mapping | None = None
    ) -> None:
        self.name = path
        self.label = label or os.path.basename(path)
        self.mapping = mapping or Mapping()
        self.guesses = text.Guesses()
        self.history = History()
        self.data = data
        self.tag = files.etag(path) if data is None else ""
        # References have to hold in a process that was started elsewhere.
        self.base = os.path.dirname(path) if data is None else os.getcwd()
        observed = columns.ObservedSchema()
        observed.observe({"id": "", "provenance": None})
        self.foreign_ids = False
        self.named_images = NameSet()  # what a folder of images has beyond these
        self.looked_through = False
        keys = array.array("Q")
        for number, record in self._records(text.Guesses()):
            row = self._row(number, record)
            # The records only name their images, which may change while the records stay.
            whole = f"{number}\0{record!r}\0{_tags(row)}"
            keys.append(xxhash.xxh3_64_intdigest(whole.encode("utf-8", "backslashreplace")))
            if isinstance(row, dict):
                observed.observe(row)
                self.foreign_ids = self.foreign_ids or row["id"] != self._id(number)
        self.schema, self.looked_through = observed.schema(), True
        self.keys = np.frombuffer(keys, np.uint64)
        self.rows = len(keys)
        self._open: tuple[int, Iterator[tuple[int, Any]]] | None = None

    @cached_property
    def digest(self) -> str:
        return self.digest_of([(0, self.rows)])

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Digest of some of the rows, the same when further rows have come behind them."""
        held = [self.keys[start:stop].tobytes() for start, stop in ranges]
        return digest("lines", *other_label(self.name, self.label), *held)

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        """A row is named by its number, its record and its images, and by the file's label."""
        label = np.uint64(xxhash.xxh3_64_intdigest("".join(other_label(self.name, self.label)).encode()))
        return self.keys[start:stop] + label

    def _records(self, guesses: text.Guesses) -> Iterator[records.Record]:
        if self.data is None:
            unchanged(self.name, self.tag)
        opened: BinaryIO = files.open_read(self.name) if self.data is None else io.BytesIO(self.data)
        with opened as file:
            head = file.read(1024)
            file.seek(0)
            read = records.reader_for(self.name, head) or records.line_records
            try:
                yield from read(file, guesses)
            except UsageError as error:
                raise UsageError(f"{self.name}: {error}", error.hint) from None

    def _id(self, number: int) -> str:
        return digest("line", str(number), *other_label(self.name, self.label))[:20]

    def _row(self, number: int, record: dict[str, Any] | RowError) -> dict[str, Any] | Reject:
        """The row, or why there is none."""
        path = f"{self.label}/{number}"
        try:
            if isinstance(record, RowError):
                raise record
            row: dict[str, Any] = {}
            if self.mapping.arrangement is not None:
                row = self.mapping.arrangement.row(record, self.base)
                for image in _images(list(row.values())) if not self.looked_through else ():
                    if image["file"] is not None:
                        self.named_images.add(os.path.normpath(image["file"]))
            for name, value in record.items() if self.mapping.arrangement is None else ():
                place, value = self._column(name, value, record)
                columns.put(row, place, value)
            return finish(row, {}, self._id(number), path, self.mapping)
        except RowError as error:
            # What --map names is there, though its image is not.
            if isinstance(record, dict) and error.reason in ("missing file", "not fetched"):
                self.mapping.named.update(record.keys() & self.mapping.renames.keys())
            return Reject(self._id(number), "read", error.reason, error.value, True, path)

    def _column(self, name: str, value: Any, record: dict[str, Any]) -> tuple[str, Any]:
        """Where a value of a record goes, and what it is there: the images that it names, or itself."""
        if name in self.mapping.images:
            return name, self._images(value)
        if name in self.mapping.renames:
            return name, value
        if name in ("image", "file_name"):
            others = [record.get(other) for other in ("target", "image") if other != name]
            free = not any(isinstance(other, (str, dict)) and other for other in others)
            if isinstance(value, str) or _path_alone(value) is not None:
                return "target" if free else name, self._images(value)
            if (
                isinstance(value, list)
                and value
                and all(isinstance(item, str) and named_as_image(item) for item in value)
            ):
                made = self._images(value)
                return ("target", made[0]) if free and len(made) == 1 else (name, made)
            return name, value
        if name in COLUMNS:
            return name, self._in_record(value, COLUMNS[name])
        value = _references(value)
        named = _path_alone(value) if name == "result" or name.startswith("result_") else None
        if name == "result" and isinstance(value, str):
            named = value
        return name, self._images(value) if isinstance(named, str) and named_as_image(named) else value

    def _in_record(self, value: Any, kind: pa.DataType) -> Any:
        """A value of the record with the paths in it, where its type has images, as images."""
        if isinstance(value, list):
            inner = kind.value_type if pa.types.is_list(kind) else kind
            return [self._in_record(item, inner) for item in value]
        if pa.types.is_list(kind):  # one where there may be several
            kind = kind.value_type
        if kind == IMAGE:
            path = _path_alone(value)
            if path is not None or (isinstance(value, str) and (not value or self._is_path(value))):
                return self._images(value)
        elif isinstance(value, dict) and pa.types.is_struct(kind):
            types = {field.name: field.type for field in kind}
            return {key: self._in_record(item, types[key]) if key in types else item for key, item in value.items()}
        return value

    def _is_path(self, value: str) -> bool:
        """Whether a string that may be a word is the path of an image."""
        if named_as_image(value):
            return True
        try:
            return not files.is_url(value) and os.path.isfile(files.join(self.base, value))
        except ValueError:
            return False

    def _images(self, value: Any) -> Any:
        """What a path, a reference that is only a path, or a list of them names. Raises RowError for anything else."""
        if isinstance(value, list):
            return [self._images(item) for item in value]
        path = value if isinstance(value, str) else _path_alone(value)
        if value is None or path == "":  # an empty cell of a table
            return None
        if path is None:
            if isinstance(value, dict) and value.keys() <= IMAGE_FIELDS and isinstance(value.get("file"), str):
                return value  # a reference, as `edit cat -f jsonl` shows it
            raise RowError("not a path", json.dumps(value, ensure_ascii=False)[:80])
        found = image_at(self.base, path)
        if not self.looked_through and not is_inline(path):
            self.named_images.add(os.path.normpath(found["file"]))
        return found

    def row_sizes(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64)] + [image_bytes(rows) for rows, _ in self.read(0, self.rows, 256)])

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Shards are mostly read in order: the next one begins where the one before ended, not at the file's first
        byte."""
        position, found = self._open or (0, self._records(self.guesses))
        if position > start:
            position, found = 0, self._records(self.guesses)
        self._open = None
        for _ in itertools.islice(found, start - position):
            pass
        rows = (self._row(number, record) for number, record in itertools.islice(found, stop - start))
        yield from parts(rows, self.schema, batch_rows)
        if stop < self.rows:
            self._open = stop, found


def _references(value: Any) -> Any:
    """References as `edit cat -f jsonl` shows them, of any column, as images; anything else as it is."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [_references(item) for item in value]
    return {"bytes": None, **value} if isinstance(value, dict) and value.keys() == _SHOWN else value


def _path_alone(value: Any) -> str | None:
    """The path of {"file": PATH} with what may be known of the image; `path` is what `datasets` calls it."""
    if not isinstance(value, dict) or not value.keys() <= {"file", "path", "bytes", "width", "height", "format"}:
        return None
    path = value.get("file") or value.get("path")
    return path if isinstance(path, str) and value.get("bytes") is None else None


def _tags(row: dict[str, Any] | Reject) -> str:
    """The etags of a row's images, or why there is no row."""
    if isinstance(row, Reject):
        return f"{row.reason}: {row.value}\n"
    return " ".join(str(image["etag"]) for image in _images(list(row.values()))) + "\n"


def _images(value: Any) -> Iterator[dict[str, Any]]:
    """The references in a value."""
    if isinstance(value, dict):
        if value.keys() == IMAGE_FIELDS:
            yield value
        else:
            yield from _images(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _images(item)
