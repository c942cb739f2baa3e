"""Rows as JSON values and back, exactly, for every Arrow type that a user's columns may have.

JSON has no bytes, no dates and no NaN. Given the column's type these are written as base64, as the integer
that Arrow stores, and as the words "NaN", "Infinity", "-Infinity"; with the type at hand they come back as
what they were.
"""

from __future__ import annotations

import base64
import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa

from edittools.record import IMAGE

_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))  # `dumps` makes one each time
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _storage(kind: pa.DataType) -> pa.DataType:
    """The integer type behind a date, time, timestamp or duration."""
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type a column has inside the stream: dictionaries and extension types become what they encode."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        pair = pa.struct([("key", plain_type(kind.key_type)), ("value", plain_type(kind.item_type))])
        return pa.list_(pair)
    return kind


def plain_array(array: pa.Array) -> pa.Array:
    """A column as its plain type."""
    wanted = plain_type(array.type)
    if wanted == array.type:
        return array
    if isinstance(array, pa.ExtensionArray):
        return plain_array(array.storage)
    if pa.types.is_dictionary(array.type):
        return plain_array(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return plain_array(pa.compute.run_end_decode(array))
    if pa.types.is_map(array.type):
        values = [None if v is None else [{"key": k, "value": x} for k, x in v] for v in array.to_pylist()]
        return pa.array(values, type=wanted)
    return array.cast(wanted)


def to_json(array: pa.Array) -> list[Any]:
    """One JSON value per row."""
    kind = array.type
    if pa.types.is_floating(kind):
        return [x if x is None or math.isfinite(x) else _word(x) for x in array.to_pylist()]
    if _is_bytes(kind):
        return [None if x is None else base64.b64encode(x).decode() for x in array.to_pylist()]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        array = array.cast(_storage(kind))
    if pa.types.is_decimal(kind):
        return [None if x is None else str(x) for x in array.to_pylist()]
    if _is_list(kind):
        values = []
        for k in range(len(array)):
            scalar = array[k]
            values.append(to_json(scalar.values) if scalar.is_valid else None)
        return values
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        columns = [to_json(child) for child in array.flatten()]
        valid = array.is_valid().to_pylist()
        rows = zip(*columns) if columns else ((),) * len(array)
        return [dict(zip(names, row)) if ok else None for ok, row in zip(valid, rows)]
    plain: list[Any] = array.to_pylist()
    return plain


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def needs_care(kind: pa.DataType) -> bool:
    """Whether `to_pylist` of this type is not yet JSON (floats are tried first: most are finite)."""
    if _is_list(kind):
        return needs_care(kind.value_type)
    if pa.types.is_struct(kind):
        return any(needs_care(field.type) for field in kind)
    return _is_bytes(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind)


def dump_rows(rows: pa.RecordBatch) -> list[bytes]:
    """Every row as one line of JSON, keys in column order."""
    if not any(needs_care(column.type) for column in rows.schema):
        try:
            return [_LINE.encode(row).encode() for row in rows.to_pylist()]
        except ValueError:
            pass  # NaN or infinity, or half a surrogate pair: the careful way spells them out
    columns = [to_json(column) for column in rows.columns]
    return [
        json.dumps(dict(zip(rows.schema.names, row)), ensure_ascii=False, separators=(",", ":")).encode()
        for row in zip(*columns)
    ]


def from_json(value: Any, kind: pa.DataType) -> Any:
    """A value that `pa.array(..., type=kind)` takes, from what `to_json` made of it."""
    if value is None or kind == IMAGE:
        return value
    if pa.types.is_floating(kind):
        return _WORDS[value] if isinstance(value, str) else value
    if _is_bytes(kind):
        return base64.b64decode(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if _is_list(kind):
        return [from_json(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: from_json(value.get(field.name), field.type) for field in kind}
    return value


def _has_temporal(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _has_temporal(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_has_temporal(field.type) for field in kind)
    return bool(pa.types.is_temporal(kind))


def _integers(kind: pa.DataType) -> pa.DataType:
    """The type with every temporal type inside it replaced by its storage."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_integers(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_integers(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(_integers(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _integers(field.type)) for field in kind])
    return _storage(kind) if pa.types.is_temporal(kind) else kind


def load_column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column from JSON values. Raises ValueError where a value does not fit the type."""
    try:
        array = pa.array([from_json(value, kind) for value in values], type=_integers(kind))
        return array.cast(kind) if _has_temporal(kind) else array
    except (pa.ArrowException, TypeError, KeyError, AttributeError, ArithmeticError, OverflowError) as error:
        raise ValueError(f"a value does not fit {kind}: {error}") from error
