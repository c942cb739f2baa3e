"""Rows that others wrote (JSON sidecars, JSON lines, foreign tars) as columns of the record.

The types of such rows are not declared, so they are observed first: whole numbers and decimals meet as
decimals, records field by field, and whatever does not meet becomes JSON text. Nothing is dropped.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pyarrow as pa

from edittools.record import COLUMNS, IMAGE

_TEXT_COLUMNS = ("instruction", "caption")


def _has_chinese(text: str) -> bool:
    return any("\u4e00" <= sign <= "\u9fff" for sign in text)


def normalise(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the record's own columns in the record's shape.

    A plain string for `instruction` or `caption` is English, or Chinese where it holds Chinese characters; one
    source picture is a list of one. A value that does not fit its column keeps its data under `user_NAME`.
    """
    result: dict[str, Any] = {}
    for name, value in row.items():
        if name in _TEXT_COLUMNS and isinstance(value, str):
            value = {"zh" if _has_chinese(value) else "en": value}
        if name == "source" and isinstance(value, dict):
            value = [value]
        if name == "id" and isinstance(value, (int, float)):
            value = str(value)
        if name in COLUMNS and value is not None and not _fits(value, COLUMNS[name]):
            name = f"user_{name}"
        result[name] = value
    return result


@functools.cache
def _fields(kind: pa.StructType) -> dict[str, pa.DataType]:
    """Names and types of a record: asking Arrow for them at every row costs more than the row."""
    return {field.name: field.type for field in kind}


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and (not isinstance(value, dict) or value.keys() - _fields(kind).keys()):
        return False
    try:
        pa.array([value], type=kind)
        return True
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return False


def _is_picture(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == _fields(IMAGE).keys()


def type_of(value: Any) -> pa.DataType:
    """The Arrow type of a JSON value."""
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(1 << 63) <= value < 1 << 63 else pa.string()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, bytes):
        return pa.binary()
    if isinstance(value, list):
        kind: pa.DataType = pa.null()
        for item in value:
            kind = meet(kind, type_of(item))
        return pa.list_(kind)
    if isinstance(value, dict):
        if _is_picture(value):
            return IMAGE
        if not value:
            return pa.null()  # Arrow and Parquet have no record without fields
        return pa.struct([(str(name), type_of(item)) for name, item in value.items()])
    return pa.string()


def meet(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """A type that holds values of both; text (JSON) where nothing narrower does."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    numeric = [pa.int64(), pa.float64()]
    if a in numeric and b in numeric:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(meet(a.value_type, b.value_type))
    if pa.types.is_struct(a) and pa.types.is_struct(b) and IMAGE not in (a, b):
        names = [field.name for field in a] + [f.name for f in b if a.get_field_index(f.name) < 0]
        none = pa.null()
        fields = []
        for name in names:
            left = a.field(name).type if a.get_field_index(name) >= 0 else none
            right = b.field(name).type if b.get_field_index(name) >= 0 else none
            fields.append((name, meet(left, right)))
        return pa.struct(fields)
    return pa.string()


def fit(value: Any, kind: pa.DataType) -> Any:
    """The value as `kind` takes it: JSON text where the type had to become text."""
    if value is None or kind == IMAGE:
        return value
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_floating(kind) and isinstance(value, int):
        return float(value)
    if pa.types.is_list(kind):
        return [fit(item, kind.value_type) for item in value] if isinstance(value, list) else None
    if pa.types.is_struct(kind):
        if not isinstance(value, dict) or (not value and kind.num_fields):
            return None
        return {name: fit(value.get(name), inner) for name, inner in _fields(kind).items()}
    return value


class ObservedSchema:
    """Gathers the columns of rows and their types."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}

    def observe(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name in COLUMNS:
                self.types[name] = COLUMNS[name]
            else:
                self.types[name] = meet(self.types.get(name, pa.null()), type_of(value))

    def schema(self) -> pa.Schema:
        """The record's columns first, in its order, then the user's, by name."""
        own = [(name, kind) for name, kind in COLUMNS.items() if name in self.types]
        theirs = [(name, self.types[name]) for name in sorted(self.types) if name not in COLUMNS]
        return pa.schema(own + theirs)


def to_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Normalised rows as a batch of a schema that observed them."""
    columns = []
    for column in schema:
        values = [fit(row.get(column.name), column.type) for row in rows]
        columns.append(pa.array(values, type=column.type))
    return pa.record_batch(columns, schema=schema)
