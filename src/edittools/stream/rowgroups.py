"""Images out of Parquet files: a row group is decoded once for all who ask for its rows, and kept while they do.

Several threads measure the images of a row group, another one writes them somewhat later, and every image column
is read in turn: so what is decoded is shared by all of the process. Arrow holds the encoded bytes while it decodes
them, in pieces of a few rows; of a large group the pieces go to a file without a name, so that its images are in
memory once and not twice.
"""

from __future__ import annotations

import bisect
import itertools
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import DamagedError, EditError, describe
from edittools.stream import files
from edittools.stream.batch import binary_views
from edittools.stream.ipc import arrow_errors
from edittools.stream.process import PerProcess

_OPEN = 8  # files
_LEAST_GROUPS = 2  # that are kept, however large: the writer may be in the one before
_MOST_BYTES = 512 << 20  # of what is kept beyond them
_LARGE = 64 << 20  # bytes of a column in a group
_PIECE = 16  # rows
_BUFFER = 1 << 20

Place = tuple[str, str | None]  # a file's path and etag


class _File:
    """An open Parquet file, and where its row groups begin."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        # Arrow's own files hand over a page at a time; Python's would be copied once more by that.
        opened, buffer = (files.open_read(path), 0) if files.is_url(path) else (pa.OSFile(path), _BUFFER)
        self.parquet: Any = pq.ParquetFile(opened, buffer_size=buffer, pre_buffer=False)
        about = self.parquet.metadata
        groups = (about.row_group(k).num_rows for k in range(about.num_row_groups))
        self.starts: list[int] = list(itertools.accumulate(groups, initial=0))
        self.columns = set(self.parquet.schema_arrow.names)

    def large(self, group: int, column: str) -> bool:
        """Whether a column's part of a group is."""
        about = self.parquet.metadata.row_group(group)
        parts = (about.column(k) for k in range(about.num_columns))
        own = (part for part in parts if part.path_in_schema.split(".")[0] == column)
        return sum(int(part.total_uncompressed_size) for part in own) > _LARGE

    def pieces(self, group: int, column: str) -> Iterator[pa.Array]:
        """The encoded images of a column in a group, some rows at a time."""
        for rows in self.parquet.iter_batches(
            batch_size=_PIECE, row_groups=[group], columns=[column], use_threads=False
        ):
            yield _bytes_of(rows.column(0))


class _Values:
    """The bytes of a column's part of a row group, in memory or in a file without a name."""

    def __init__(self, large: bool) -> None:
        self.pieces: list[pa.Array] = []
        self.file = tempfile.TemporaryFile(prefix="edittools-", buffering=0) if large else None
        self.places: list[tuple[int, int] | None] = []  # in the file: where, and how many bytes
        self.nbytes = self.rows = 0  # counted as they come: they are asked for with every image
        self.damaged = ""  # why there are no more

    def add(self, piece: pa.Array) -> None:
        self.rows += len(piece)
        if self.file is None:
            self.pieces.append(piece)
            self.nbytes += int(piece.nbytes)
            return
        for view in binary_views(piece.cast(pa.binary())):
            self.places.append(None if view is None else (self.nbytes, len(view)))
            if view is not None:
                self.nbytes += len(view)
                while view := view[self.file.write(view) :]:
                    pass

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> bytes | None:
        if self.file is None:
            value: bytes | None = self.pieces[row // _PIECE][row % _PIECE].as_py()
            return value
        place = self.places[row]
        return None if place is None else os.pread(self.file.fileno(), place[1], place[0])


class RowGroups:
    """The row groups that are decoded, by file and number: their columns of images."""

    def __init__(self) -> None:
        self.files: OrderedDict[Place, _File] = OrderedDict()
        self.adopted: dict[str, _File] = {}
        self.groups: OrderedDict[tuple[Place, int], dict[str, _Values]] = OrderedDict()
        self.held = 0  # bytes of them
        self.lock = threading.Lock()

    def adopt(self, path: str) -> None:
        """Open a file now, because nobody will find it under its name later."""
        self.adopted[path] = _File(path)

    def value(self, path: str, etag: str | None, column: str, row: int) -> bytes | None:
        """An image of a column. Raises EditError for a file that changed or has no such row, DamagedError where the
        column's part of its row group is damaged."""
        with self.lock, arrow_errors(path):
            file = self._file(path, etag)
            if not 0 <= row < file.starts[-1] or column not in file.columns:
                raise EditError(f"{path}: has no row {row} of a column `{column}`")
            group = bisect.bisect_right(file.starts, row) - 1
            values = self._values(file, (path, etag), group, column)
            place = row - file.starts[group]
            if place >= len(values):
                why = values.damaged or "fewer rows than the file says"
                raise DamagedError(f"{path}: column `{column}` of row group {group} is damaged: {why}")
        return values[place]

    def _file(self, path: str, etag: str | None) -> _File:
        if path in self.adopted:
            return self.adopted[path]
        if (path, etag) not in self.files:
            if etag is not None and files.etag(path) != etag:
                raise EditError(f"{path}: the file changed while the pipeline was running")
            self.files[path, etag] = _File(path)
            while len(self.files) > _OPEN:
                self.files.popitem(last=False)
        self.files.move_to_end((path, etag))
        return self.files[path, etag]

    def _values(self, file: _File, place: Place, group: int, column: str) -> _Values:
        known = self.groups.setdefault((place, group), {})
        self.groups.move_to_end((place, group))
        if column not in known:
            values = _Values(file.large(group, column))
            try:
                for piece in file.pieces(group, column):
                    values.add(piece)
            except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
                if files.is_url(place[0]) or getattr(error, "errno", None) is not None:
                    raise  # the store, or the disk
                values.damaged = describe(error)
            known[column] = values
            self.held += values.nbytes
            while len(self.groups) > _LEAST_GROUPS and self.held > _MOST_BYTES:
                _, gone = self.groups.popitem(last=False)
                self.held -= sum(one.nbytes for one in gone.values())
        return known[column]


def _bytes_of(column: pa.Array) -> pa.Array:
    """The encoded images of a column: its values, or their field `bytes`, null where the whole value is."""
    if not pa.types.is_struct(column.type):
        return column
    return column.flatten()[column.type.get_field_index("bytes")]


shared = PerProcess(RowGroups)
