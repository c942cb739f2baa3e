"""The columns of several inputs together, and rows brought under the columns of all."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa

from edittools.errors import EditError
from edittools.record import COLUMNS, IMAGE, TEXT
from edittools.stream import columns
from edittools.stream.batch import image_columns
from edittools.stream.columns import in_its_language
from edittools.stream.rowjson import to_json


def _unify_types(name: str, a: pa.DataType, b: pa.DataType, as_text: bool) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if COLUMNS.get(name) == TEXT and all(kind == TEXT or _is_text(kind) for kind in (a, b)):
        return TEXT
    if pa.types.is_struct(a) and pa.types.is_struct(b) and IMAGE not in (a, b):
        new = [f.name for f in b if a.get_field_index(f.name) < 0]
        names = [f.name for f in a] + new
        if as_text and new and columns.is_dictionary(len(names), b.num_fields):
            return pa.string()
        fields = []
        for inner in names:
            left = a.field(inner).type if a.get_field_index(inner) >= 0 else pa.null()
            right = b.field(inner).type if b.get_field_index(inner) >= 0 else pa.null()
            fields.append((inner, _unify_types(f"{name}.{inner}", left, right, as_text)))
        return pa.struct(fields)
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(_unify_types(name, a.value_type, b.value_type, as_text))
    try:
        one, two = pa.schema([("x", a)]), pa.schema([("x", b)])
        return pa.unify_schemas([one, two], promote_options="permissive").field(0).type
    except pa.ArrowException:
        if as_text and IMAGE not in (a, b):
            return pa.string()
        raise EditError(f"column `{name}` is {a} in one input and {b} in another", hint="read them apart") from None


def unify(schemas: list[pa.Schema], as_text: bool = False) -> pa.Schema:
    """The columns of all inputs together. Where one column has types that do not meet, raises EditError, or makes the
    values text (JSON); then names that hardly any of many inputs has are one column of JSON, too."""
    times = Counter(name for schema in schemas for name in schema.names)
    rest = columns.rare_names(times, len(schemas)) if as_text else set[str]()
    rest -= {column.name for schema in schemas for column in schema if column.name in rest and _is_own(column)}
    types: dict[str, pa.DataType] = {}
    gathered = {name for name in map(columns.rare_column, schemas) if name is not None}
    for schema in schemas:
        for column in schema:
            if column.name not in rest:
                known = types.get(column.name, column.type)
                types[column.name] = _unify_types(column.name, known, column.type, as_text)
    made = [pa.field(name, kind) for name, kind in types.items() if name not in gathered]
    found = [columns.of_rare(name) for name in sorted(gathered)]
    return pa.schema([*made, *(found or ([columns.of_rare(columns.free_name(types))] if rest else []))])


def _is_own(column: pa.Field) -> bool:
    """Whether a column is the record's, or holds images."""
    return column.name in COLUMNS or bool(image_columns(pa.schema([column])))


def align(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the columns of `schema`, null where they have none."""
    if rows.schema.equals(schema):
        return rows
    rest, made = columns.rare_column(schema), []
    for column in schema:
        index = rows.schema.get_field_index(column.name)
        array = rows.column(index) if index >= 0 else pa.nulls(rows.num_rows, column.type)
        if column.name == rest:
            array = _with_rest(rows, array, schema)
        made.append(align_array(array, column.type))
    return pa.record_batch(made, schema=columns.unmarked(schema))


def _with_rest(rows: pa.RecordBatch, held: pa.Array, schema: pa.Schema) -> pa.Array:
    """The column of JSON for what stands under names that hardly any input has: what is there, and these columns."""
    beyond = {name: to_json(rows.column(name)) for name in rows.schema.names if schema.get_field_index(name) < 0}
    texts: list[str | None] = []
    for row, known in enumerate(held.to_pylist()):
        values = {name: column[row] for name, column in beyond.items() if column[row] is not None}
        texts.append(json.dumps({**json.loads(known or "{}"), **values}, ensure_ascii=False) if values else known)
    return pa.array(texts, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def align_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if kind == TEXT and _is_text(array.type):
        return pa.array([in_its_language(text) for text in array.to_pylist()], type=TEXT)
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        known = dict(zip([f.name for f in array.type], array.flatten()))
        children = [
            align_array(known[f.name], f.type) if f.name in known else pa.nulls(len(array), f.type) for f in kind
        ]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if pa.types.is_list(kind) and pa.types.is_list(array.type):
        offsets = np.asarray(array.offsets)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        mask = array.is_null() if array.null_count else None
        starts = pa.array(offsets - offsets[0], type=pa.int32())
        return pa.ListArray.from_arrays(starts, align_array(values, kind.value_type), mask=mask)
    if pa.types.is_string(kind) and pa.types.is_nested(array.type):
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in to_json(array)]
        return pa.array(texts, kind)
    return array.cast(kind)


def can_align(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `align_array` makes a `wanted` of any array of type `kind`, and loses nothing."""
    if kind == wanted or pa.types.is_null(kind):
        return True
    if pa.types.is_struct(kind) and pa.types.is_struct(wanted):
        inner = {field.name: field.type for field in wanted}
        return all(field.name in inner and can_align(field.type, inner[field.name]) for field in kind)
    if pa.types.is_list(kind) and pa.types.is_list(wanted):
        return can_align(kind.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(kind) or pa.types.is_integer(kind))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(kind))
    integers = pa.types.is_signed_integer(kind) and pa.types.is_signed_integer(wanted)
    return bool(integers and kind.bit_width <= wanted.bit_width)
