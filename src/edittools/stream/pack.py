"""Rows as tar members and back.

A row becomes one member per image and one `ID.json` that holds everything else, and, where an image stands,
which member it is and its size. So the tar alone is the whole row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import EditError, RowError
from edittools.record import IMAGE, STORED_IMAGE
from edittools.stream import codec, rowjson
from edittools.stream.batch import Reject, image_columns, image_positions, map_batch_images
from edittools.stream.fetch import Buffer, Fetcher, image_references
from edittools.stream.tar import Member, TarReader, TarWriter, quote_key, samples, unquote_key

# What stands for an image in a row's JSON.
_MEMBER = pa.struct([("member", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("format", pa.string())])
_SINGULAR = {"turns": "turn", "objects": "object"}
_ROWS_AT_ONCE = 32  # the bytes of so many rows are in memory together


def role(path: tuple[str, ...], position: tuple[int, ...], alone: bool) -> str:
    """The part of a member's name between the id and the ending: `source`, `source.1`, `turn.0.target`."""
    parts = [quote_key(_SINGULAR.get(path[0], path[0]))]
    indexes = iter(position[1:])
    for step in path[1:]:
        parts.append(str(next(indexes)) if step == "*" else quote_key(step))
    if path[1:] == ("*",) and alone:
        parts.pop()
    return ".".join(parts)


class _ImageColumn:
    """The images of one nested column over some rows: where each sits, its bytes, and what is known of it."""

    def __init__(self, path: tuple[str, ...], positions: list[tuple[int, ...] | None]) -> None:
        self.path = path
        self.positions = positions
        self.references: list[dict[str, Any] | None] = []
        self.data: list[Buffer | None] = []
        self.names: list[str | None] = []
        self.offsets: list[int | None] = []


def _leaves(rows: pa.RecordBatch) -> list[_ImageColumn]:
    nested_columns = []
    for name, column in zip(rows.schema.names, rows.columns):
        paths = image_columns(pa.schema([(name, column.type)]))
        nested_columns += [_ImageColumn(path, places) for path, places in zip(paths, image_positions(column))]
    order = iter(nested_columns)

    def collect(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        next(order).references = list(image_references(values))
        return values

    map_batch_images(rows, IMAGE, collect)
    return nested_columns


def _load(reference: dict[str, Any], fetcher: Fetcher) -> Buffer:
    """The bytes of an image; what the reference does not say yet is read from their header."""
    data = fetcher.get(reference)
    if reference["format"] is None or reference["width"] is None or reference["height"] is None:
        header = codec.probe(data)
        reference.update(format=header.format, width=header.width, height=header.height)
    return data


def pack_rows(
    rows: pa.RecordBatch, fetcher: Fetcher, tar: TarWriter, stage: str
) -> tuple[pa.RecordBatch, list[Reject]]:
    """Append rows to a tar. Returns the rows that went in, with STORED_IMAGE images, and the rejects."""
    stored, rejects = [], []
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        piece, failed = _pack_few(rows.slice(start, _ROWS_AT_ONCE), fetcher, tar, stage)
        stored.append(piece)
        rejects += failed
    if not stored:
        piece, _ = _pack_few(rows, fetcher, tar, stage)
        return piece, []
    return pa.concat_batches(stored), rejects


def _pack_few(
    rows: pa.RecordBatch, fetcher: Fetcher, tar: TarWriter, stage: str
) -> tuple[pa.RecordBatch, list[Reject]]:
    nested_columns = _leaves(rows)
    ids = rows.column("id").to_pylist()
    failed: dict[int, Reject] = {}
    for row, identity in enumerate(ids):
        if not identity:
            failed[row] = Reject("", stage, "no id", failed=True)
    for nested in nested_columns:
        for position, reference in zip(nested.positions, nested.references):
            data = None
            if reference is not None and position is not None and position[0] not in failed:
                try:
                    data = _load(reference, fetcher)
                except RowError as error:
                    row = position[0]
                    failed[row] = Reject(ids[row] or "", stage, error.reason, error.value, failed=True)
            nested.data.append(data)
    if failed:
        keep = pa.array([row not in failed for row in range(rows.num_rows)])
        stored, _ = _pack_few(rows.filter(keep), fetcher, tar, stage)
        return stored, list(failed.values())

    members: list[list[tuple[_ImageColumn, int, str, Buffer]]] = [[] for _ in ids]
    for nested in nested_columns:
        sizes = Counter(position[0] for position in nested.positions if position is not None)
        for k, (position, reference, data) in enumerate(zip(nested.positions, nested.references, nested.data)):
            if position is None or reference is None or data is None:
                nested.names.append(None)
                continue
            name = f"{role(nested.path, position, sizes[position[0]] == 1)}.{codec.extension(reference['format'])}"
            nested.names.append(name)
            members[position[0]].append((nested, k, name, data))
        nested.offsets = [None] * len(nested.positions)

    described = _with_images(rows, nested_columns, _MEMBER, _describe)
    for row, line in enumerate(rowjson.dump_rows(described)):
        key = quote_key(ids[row])
        named: list[tuple[str, Buffer]] = [(f"{key}.{name}", data) for _, _, name, data in members[row]]
        offsets = tar.add([*named, (f"{key}.json", line)])
        for (nested, k, _, _), offset in zip(members[row], offsets):
            nested.offsets[k] = offset
    return _with_images(rows, nested_columns, STORED_IMAGE, _store), []


def _with_images(
    rows: pa.RecordBatch,
    nested_columns: list[_ImageColumn],
    new: pa.DataType,
    describe: Callable[[_ImageColumn], list[dict[str, Any] | None]],
) -> pa.RecordBatch:
    order = iter(nested_columns)

    def convert(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        return pa.array(describe(next(order)), type=new)

    return map_batch_images(rows, IMAGE, convert)


def _describe(nested: _ImageColumn) -> list[dict[str, Any] | None]:
    return [
        None
        if name is None or reference is None
        else {
            "member": name,
            "width": reference["width"],
            "height": reference["height"],
            "format": reference["format"],
        }
        for name, reference in zip(nested.names, nested.references)
    ]


def _store(nested: _ImageColumn) -> list[dict[str, Any] | None]:
    return [
        None
        if offset is None or reference is None or data is None
        else {
            "offset": offset,
            "length": len(data),
            "width": reference["width"],
            "height": reference["height"],
            "format": reference["format"],
        }
        for offset, reference, data in zip(nested.offsets, nested.references, nested.data)
    ]


# ---------------------------------------------------------------- reading a tar of our own


def unpack_rows(
    reader: TarReader, schema: pa.Schema, image: Callable[[Member, dict[str, Any]], dict[str, Any]], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a tar that `pack_rows` wrote. `image` makes an IMAGE value of a member and its facts."""
    pending: list[dict[str, Any]] = []
    for key, group in samples(reader.members()):
        by_ending = dict(group)
        if "json" not in by_ending:
            raise EditError(f"{reader.name}: sample `{unquote_key(key)}` has no JSON member")
        member = by_ending["json"]
        data = reader.read(member.offset, member.size)
        try:
            row = json.loads(data)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise EditError(f"{reader.name}: damaged JSON of `{unquote_key(key)}`: {error}") from error

        def resolve(value: Any, by_ending: dict[str, Member] = by_ending, key: str = key) -> dict[str, Any]:
            name = value.get("member") if isinstance(value, dict) else None
            if name not in by_ending:
                raise EditError(f"{reader.name}: sample `{unquote_key(key)}` lacks its member {name!r}")
            return image(by_ending[name], value)

        pending.append({c.name: _resolve(row.get(c.name), c.type, resolve) for c in schema})
        reader.forget(member.offset)
        if len(pending) == batch_rows:
            yield _to_batch(pending, schema, reader.name)
            pending = []
    if pending:
        yield _to_batch(pending, schema, reader.name)


def _resolve(value: Any, kind: pa.DataType, resolve: Callable[[Any], dict[str, Any]]) -> Any:
    if value is None:
        return None
    if kind == IMAGE:
        return resolve(value)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if not isinstance(value, list):
            return value
        return [_resolve(item, kind.value_type, resolve) for item in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return {field.name: _resolve(value.get(field.name), field.type, resolve) for field in kind}
    return value


def _to_batch(rows: list[dict[str, Any]], schema: pa.Schema, name: str) -> pa.RecordBatch:
    try:
        columns = [rowjson.load_column([row[c.name] for row in rows], c.type) for c in schema]
        return pa.record_batch(columns, schema=schema)
    except ValueError as error:
        raise EditError(f"{name}: {error}") from error
