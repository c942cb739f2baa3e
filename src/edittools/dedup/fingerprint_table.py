"""The fingerprints of all rows between the first step and the decisions: facts in memory, vectors on disk."""

from __future__ import annotations

import tempfile
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from edittools.dedup.ids import ShardIds

WIDE = 64  # bytes; what is wider goes to disk


class WideColumn:
    """A fixed-size binary column in a temporary file, in the order it came; mapped into memory to be read."""

    def __init__(self, width: int) -> None:
        self.width, self.rows = width, 0
        self.file = tempfile.TemporaryFile(prefix="edittools-")
        self.valid: list[np.ndarray] = []

    def add(self, array: pa.Array) -> None:
        words, valid = fixed_bytes(array, self.width)
        self.file.write(words.tobytes())
        self.valid.append(valid)
        self.rows += len(array)

    def values(self, kind: Any) -> np.ndarray:
        """All rows as (rows, width of `kind`s), zeros where null."""
        shape = (self.rows, self.width // np.dtype(kind).itemsize)
        if not self.rows:
            return np.zeros(shape, kind)
        self.file.flush()
        return np.memmap(self.file, kind, "r", shape=shape)


def fixed_bytes(array: pa.Array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A fixed-size binary array as uint8 (n, width), zeros where null, and which are not null."""
    valid = np.asarray(array.is_valid())
    filled = array.fill_null(bytes(width)) if array.null_count else array
    start, count = width * filled.offset, width * len(filled)
    if not count:
        return np.zeros((0, width), np.uint8), valid
    return np.frombuffer(filled.buffers()[1], np.uint8, count, start).reshape(-1, width), valid


class FingerprintTable:
    """Fingerprints as they come in, then as columns. Rows of an earlier run carry the name of their `set`."""

    def __init__(self) -> None:
        self.schema: pa.Schema | None = None
        self.rows = 0
        self.new = 0  # rows of this run; those of earlier ones stand behind them
        self._narrow: list[pa.RecordBatch] = []
        self._sets: list[pa.Array] = []
        self._wide: dict[str, WideColumn] = {}
        self.ids = ShardIds()  # of the new rows
        self._state = xxhash.xxh3_128()
        self._table: pa.Table | None = None

    def add(self, rows: pa.RecordBatch, of: pa.Array | None = None) -> None:
        """Take fingerprints; `of` names the set of each, for those of an earlier run."""
        if self.schema is None:
            self.schema = rows.schema
            for field in rows.schema:
                if pa.types.is_fixed_size_binary(field.type) and field.type.byte_width > WIDE:
                    self._wide[field.name] = WideColumn(field.type.byte_width)
        for name, column in self._wide.items():
            column.add(rows.column(name))
        self._narrow.append(rows.select([name for name in rows.schema.names if name not in self._wide]))
        self._sets.append(pa.nulls(rows.num_rows, pa.string()) if of is None else of)
        self.rows += rows.num_rows
        self._table = None
        if of is None:
            self.new += rows.num_rows
            ids = rows.column("id").to_pylist()
            self._state.update("".join(f"{identity}\n" for identity in ids).encode())
            for shard, places in groupby(range(len(ids)), rows.column("shard").to_pylist().__getitem__):
                self.ids.add(shard, [ids[place] for place in places])
            self._state.update(fixed_bytes(rows.column("exact"), 16)[0].tobytes())

    @property
    def table(self) -> pa.Table:
        """The narrow columns, and `set`."""
        if self._table is None:
            if not self._narrow:
                raise ValueError("no fingerprints")
            table = pa.Table.from_batches(self._narrow).combine_chunks()
            self._table = table.append_column("set", pa.chunked_array(self._sets, pa.string()).combine_chunks())
            self._narrow, self._sets = self._table.drop_columns(["set"]).to_batches(), [_whole(self._table["set"])]
        return self._table

    @property
    def content(self) -> str:
        """Names the new rows: the same rows in the same order have the same name."""
        return self._state.hexdigest()

    def numbers(self, name: str) -> np.ndarray:
        return _whole(self.table.column(name)).to_numpy(zero_copy_only=False)

    def fixed(self, name: str, kind: Any) -> tuple[np.ndarray, np.ndarray]:
        """A fixed-size binary column as (rows, k) of `kind`, zeros where null, and which rows have a value."""
        if name in self._wide:
            wide = self._wide[name]
            return wide.values(kind), np.concatenate(wide.valid) if wide.valid else np.zeros(0, bool)
        array = _whole(self.table.column(name))
        values, valid = fixed_bytes(array, array.type.byte_width)
        return np.ascontiguousarray(values).view(kind), valid

    def take(self, rows: np.ndarray) -> pa.Table:
        """Some rows with all of their columns, in the order of the schema."""
        assert self.schema is not None
        narrow = self.table.take(pa.array(rows))
        columns = {}
        for field in self.schema:
            if field.name not in self._wide:
                columns[field.name] = narrow.column(field.name)
                continue
            values, valid = self.fixed(field.name, np.uint8)
            data = np.ascontiguousarray(values[rows])
            mask = None if valid[rows].all() else pa.array(valid[rows]).buffers()[1]
            columns[field.name] = pa.Array.from_buffers(field.type, len(rows), [mask, pa.py_buffer(data)])
        return pa.table(columns, schema=self.schema)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
