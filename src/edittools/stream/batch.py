"""The batch, which flows through stages: rows of one input shard, and the rejects so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from edittools.record import IMAGE

_MOST_PIECES = 64  # that are joined to one batch

if TYPE_CHECKING:
    from edittools.stream.history import History


@dataclass(frozen=True)
class Shard:
    """One unit of work: shard `index` (from 0) of `count` (None while unknown).

    `digest` identifies the content, so that a finished output can tell whether its input is still the same.
    """

    index: int
    count: int | None
    digest: str


@dataclass(frozen=True)
class Reject:
    """A row that did not come through: dropped by a decision, or `failed`."""

    id: str
    stage: str
    reason: str
    value: object = None
    failed: bool = False
    path: str | None = None  # the file inside the crawl, for a row that has one

    def to_dict(self) -> dict[str, object]:
        record: dict[str, object] = {"id": self.id, "stage": self.stage, "reason": self.reason}
        record["value"] = self.value
        record["failed"] = self.failed
        if self.path is not None:
            record["path"] = self.path
        return record

    def line(self) -> bytes:
        """As one line of JSON. Half of a surrogate pair, which a name in JSON may hold, stays an escape."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, default=str)
        return text.encode("utf-8", "backslashreplace") + b"\n"

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Reject:
        return cls(
            record["id"],
            record["stage"],
            record["reason"],
            record.get("value"),
            record.get("failed", False),
            record.get("path"),
        )


@dataclass
class Batch:
    """Rows of one shard, in order; `last` closes the shard (such a batch may be empty).

    `seen` counts the rows that the source read for it, rejected ones included. `more`: the writer of the stream that
    it came through cut it from a larger batch, and the next one is of the same (see `joined`).
    """

    rows: pa.RecordBatch
    shard: Shard
    last: bool = False
    seen: int = 0
    rejects: list[Reject] = field(default_factory=list)
    more: bool = False

    def replace(self, rows: pa.RecordBatch, rejects: list[Reject] | None = None) -> Batch:
        """The same place in the stream with other rows, and with further rejects."""
        return Batch(rows, self.shard, self.last, self.seen, self.rejects + (rejects or []), self.more)

    def slice(self, start: int, stop: int) -> Batch:
        """Rows start..stop. Counts and rejects stay with the first slice, the end of the shard with the last."""
        first, final = start == 0, stop >= self.rows.num_rows
        return Batch(
            self.rows.slice(start, stop - start),
            self.shard,
            self.last and final,
            self.seen if first else 0,
            self.rejects if first else [],
        )


def joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches that a stream's writer cut to the size that the stream allows, as they were before.

    All pieces of one were written together, so that nothing waits for a slow producer here.
    """
    pieces: list[Batch] = []
    for batch in batches:
        if pieces and (batch.shard != pieces[0].shard or len(pieces) == _MOST_PIECES):  # of somebody else's making
            yield _join(pieces)
            pieces = []
        pieces.append(batch)
        if not batch.more:
            yield _join(pieces)
            pieces = []
    if pieces:
        yield _join(pieces)


def _join(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    return Batch(
        pa.concat_batches([piece.rows for piece in pieces]),
        pieces[0].shard,
        pieces[-1].last,
        sum(piece.seen for piece in pieces),
        [reject for piece in pieces for reject in piece.rejects],
    )


class Stage(Protocol):
    """A step of a pipeline. It sees batches only: no paths, ranks, formats, terminals or exits.

    `VERSION` begins at 1 and is raised whenever the results of the same settings change, so that finished shards of
    before are not taken for current ones.

    A shard goes in and comes out as a shard: the batch marked `last` is passed on, with what is left of it.
    """

    name: str
    VERSION: int

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records, for rows of these columns and this history: all that changes the result, as JSON.

        A finished shard of other settings is not taken for one of these.
        """

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns that come out when these go in; known before the first row."""

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]: ...


# ---------------------------------------------------------------- images inside columns


def image_columns(schema: pa.Schema, kind: pa.DataType = IMAGE) -> list[tuple[str, ...]]:
    """Where a schema holds images: paths such as ("source", "*") or ("turns", "*", "target")."""

    def walk(data_type: pa.DataType, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if data_type == kind:
            yield path
        elif pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
            yield from walk(data_type.value_type, (*path, "*"))
        elif pa.types.is_struct(data_type):
            for inner in data_type:
                yield from walk(inner.type, (*path, inner.name))

    return [path for column in schema for path in walk(column.type, (column.name,))]


def map_type(data_type: pa.DataType, old: pa.DataType, new: pa.DataType) -> pa.DataType:
    """The type with every `old` inside it replaced by `new`."""
    if data_type == old:
        return new
    if pa.types.is_list(data_type):
        return pa.list_(map_type(data_type.value_type, old, new))
    if pa.types.is_large_list(data_type):
        return pa.large_list(map_type(data_type.value_type, old, new))
    if pa.types.is_struct(data_type):
        return pa.struct([(inner.name, map_type(inner.type, old, new)) for inner in data_type])
    return data_type


def map_schema(schema: pa.Schema, old: pa.DataType, new: pa.DataType) -> pa.Schema:
    """The schema with every image of type `old` declared as `new`; metadata is dropped."""
    return pa.schema([(column.name, map_type(column.type, old, new)) for column in schema])


def map_images(array: pa.Array, old: pa.DataType, convert: Callable[[pa.StructArray], pa.StructArray]) -> pa.Array:
    """Apply `convert` to every flat array of `old` images inside `array`, however deep.

    `convert` sees the values of one image column in row order (null where there is no image) and returns as many.
    """
    if array.type == old:
        return convert(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        if not image_columns(pa.schema([("column", array.type)]), old):
            return array
        offsets = np.asarray(array.offsets)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        inner = map_images(values, old, convert)
        kind = pa.ListArray if pa.types.is_list(array.type) else pa.LargeListArray
        starts = pa.array(offsets - offsets[0], type=array.offsets.type)
        mask = array.is_null() if array.null_count else None
        return kind.from_arrays(starts, inner, mask=mask)
    if pa.types.is_struct(array.type):
        if not image_columns(pa.schema([("column", array.type)]), old):
            return array
        # flatten() carries the nulls of the struct into its fields, so that no image is seen below a null.
        children = [map_images(child, old, convert) for child in array.flatten()]
        names = [inner.name for inner in array.type]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, names=names, mask=mask)
    return array


def map_batch_images(
    rows: pa.RecordBatch,
    old: pa.DataType,
    convert: Callable[[tuple[str, ...], pa.StructArray], pa.StructArray],
) -> pa.RecordBatch:
    """Replace the images of every column; `convert` also gets the path of the image column it is given."""
    columns = []
    for name, column in zip(rows.schema.names, rows.columns):
        paths = iter(image_columns(pa.schema([(name, column.type)]), old))

        def convert_next(values: pa.StructArray, paths: Iterator[tuple[str, ...]] = paths) -> pa.StructArray:
            return convert(next(paths), values)

        columns.append(map_images(column, old, convert_next))
    return pa.record_batch(columns, names=rows.schema.names)


def image_positions(array: pa.Array, kind: pa.DataType = IMAGE) -> list[list[tuple[int, ...] | None]]:
    """For every nested image column of `array`, where each of its flat values sits: (row, index in list, ...).

    The order is that in which `map_images` visits them; None stands below a null.
    """

    def walk(values: pa.Array, positions: list[tuple[int, ...] | None]) -> Iterator[list[tuple[int, ...] | None]]:
        if values.type == kind:
            yield positions
        elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            if not image_columns(pa.schema([("column", values.type)]), kind):
                return
            lengths = np.diff(np.asarray(values.offsets))
            valid = values.is_valid().to_pylist()
            inner: list[tuple[int, ...] | None] = []
            for place, length, ok in zip(positions, lengths.tolist(), valid):
                inner += [(*place, k) if ok and place is not None else None for k in range(length)]
            bounds = np.asarray(values.offsets)
            yield from walk(values.values.slice(bounds[0], bounds[-1] - bounds[0]), inner)
        elif pa.types.is_struct(values.type):
            valid = values.is_valid().to_pylist()
            positions = [place if ok else None for place, ok in zip(positions, valid)]
            for child in values.flatten():
                yield from walk(child, positions)

    return list(walk(array, [(row,) for row in range(len(array))]))


def image_array(
    count: int,
    /,
    *,
    mask: pa.Array | None = None,
    **fields: pa.Array | object,
) -> pa.StructArray:
    """An IMAGE array from some of its fields; a scalar is repeated, an absent field is null."""
    children = []
    for inner in IMAGE:
        value = fields.get(inner.name)
        if isinstance(value, pa.Array):
            children.append(value.cast(inner.type) if value.type != inner.type else value)
        elif value is None:
            children.append(pa.nulls(count, inner.type))
        else:
            children.append(pa.repeat(pa.scalar(value, inner.type), count))
    return pa.StructArray.from_arrays(children, fields=list(IMAGE), mask=mask)


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array([], type=column.type) for column in schema], schema=schema)


def binary_views(array: pa.Array) -> list[memoryview | None]:
    """The values of a binary array as memory views into it."""
    if not len(array):
        return []
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    # As unsigned bytes: pyarrow's buffers call theirs signed, which a JPEG decoder refuses.
    view = memoryview(data).cast("B") if data is not None else memoryview(b"")
    valid = array.is_valid().to_pylist()
    bounds = offsets.tolist()
    return [view[bounds[k] : bounds[k + 1]] if valid[k] else None for k in range(len(array))]
