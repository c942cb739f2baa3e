"""Arrow streams that others wrote: what `datasets` saves to disk (`data-00000-of-00001.arrow`).

Nobody can refer to an image inside such a file, so that images come as bytes; a local file is mapped, not read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import DamagedError
from edittools.record import COLUMNS, IMAGE, is_hf_image
from edittools.stream import columns, files, text
from edittools.stream.batch import Reject, map_type
from edittools.stream.history import History, digest
from edittools.stream.input_reader import Part, image_bytes, other_label, unchanged
from edittools.stream.ipc import arrow_errors, check_names
from edittools.stream.mapping import Mapping
from edittools.stream.readers.parquet import hf_types, inline_images
from edittools.stream.rowjson import plain_array, plain_type

TABLES = ("arrow",)
_MAGIC = b"\xff\xff\xff\xff"
_FEW_ROWS = 32  # whose images are in memory together


def claim(path: str, head: bytes) -> int:
    return 2 if head[:4] == _MAGIC and is_foreign(path) else 0


def is_foreign(path: str) -> bool:
    """Whether an Arrow stream is none of ours; one that cannot be read is."""
    try:
        with files.open_read(path) as file:
            metadata = pa.ipc.open_stream(file).schema.metadata or {}
        return b"edit.version" not in metadata
    except (pa.ArrowException, OSError):
        return False


def open_file(path: str, label: str | None, mapping: Mapping) -> ArrowUnit:
    return ArrowUnit(path, label, mapping)


class ArrowUnit:
    """The rows of one such file."""

    def __init__(self, path: str, label: str | None, mapping: Mapping) -> None:
        self.name, self.label = path, label or os.path.basename(path)
        self.tag, self.base, self.history = files.etag(path), os.path.dirname(path), History()
        self.arrangement = mapping.arrangement
        self.renamed = self.arrangement is not None
        with arrow_errors(path), self._opened() as reader:
            check_names(reader.schema, path)
            self.stored = pa.schema([(column.name, column.type) for column in reader.schema])
        self.own = self.schema = pa.schema(list(self._columns()))
        if self.arrangement is not None:
            self.schema = self.arrangement.schema(self.own, path)
        self.foreign_ids = "id" in self.stored.names
        self.digest = digest("arrow", self.tag, *other_label(path, label))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        unchanged(self.name, self.tag)
        source = files.open_read(self.name) if files.is_url(self.name) else pa.memory_map(self.name)
        with source:
            yield pa.ipc.open_stream(source)

    def _columns(self) -> Iterator[tuple[str, pa.DataType]]:
        for column in self.stored:
            kind = IMAGE if is_hf_image(column.type) else plain_type(column.type)
            for inner in hf_types(kind):
                kind = map_type(kind, inner, IMAGE)
            yield column.name, pa.string() if column.name == "id" else kind
        for name in ("id", "provenance"):
            if name not in self.stored.names:
                yield name, COLUMNS[name]

    @cached_property
    def rows(self) -> int:
        with arrow_errors(self.name), self._opened() as reader:
            return sum(batch.num_rows for batch in reader)

    def row_sizes(self) -> np.ndarray:
        found = [image_bytes(rows) for rows, _ in self.read(0, self.rows, _FEW_ROWS)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        position = 0
        with arrow_errors(self.name), self._opened() as reader:
            for batch in reader:
                for first in range(max(start - position, 0), min(stop - position, batch.num_rows), _FEW_ROWS):
                    piece = batch.slice(first, min(_FEW_ROWS, stop - position - first))
                    yield self._part(piece, position + first)
                position += batch.num_rows
                if position >= stop:
                    return
        raise DamagedError(f"{self.name}: damaged: {position} rows can be read")

    def _part(self, rows: pa.RecordBatch, first: int) -> Part:
        made: dict[str, pa.Array] = {}
        for column in self.stored:
            array = rows.column(column.name)
            made[column.name] = text.valid_array(inline_images(plain_array(array), self.base))
        numbers = range(first, first + rows.num_rows)
        made.setdefault("id", pa.array([digest(self.label, str(number))[:20] for number in numbers], pa.string()))
        places = pa.array([{"path": f"{self.label}/{number}"} for number in numbers], COLUMNS["provenance"])
        made.setdefault("provenance", places)
        found = pa.record_batch([made[c.name].cast(c.type) for c in self.own], schema=self.own)
        return (
            (found, []) if self.arrangement is None else self.arrangement.part(found, self.base, self.schema, self.name)
        )

    def damaged(self, start: int, stop: int, error: DamagedError) -> Part:
        """Rows start..stop as rejects."""
        why = str(error).removeprefix(f"{self.name}: ")
        return columns.to_batch([], self.schema), [
            Reject(f"{row}", "read", "damaged file", why, True, f"{self.label}/{row}") for row in range(start, stop)
        ]
