"""The images of rows, as the stages use them: one per row, all sources, or new pixels as a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS, IMAGE, TEXT
from edittools.stream import codec
from edittools.stream.fetch import image_references
from edittools.stream.input_reader import reference


def row_images(rows: pa.RecordBatch, which: str) -> pa.StructArray:
    """One image per row: the target, or the first source; null where there is none.

    Raises UsageError where the columns hold no such image.
    """
    index = rows.schema.get_field_index(which)
    if index < 0:
        raise UsageError(f"the input has no `{which}` image", hint="it has: " + ", ".join(rows.schema.names))
    column = rows.column(index)
    if column.type == IMAGE:
        return column
    if pa.types.is_list(column.type) and column.type.value_type == IMAGE:
        offsets = np.asarray(column.offsets)
        empty = (np.diff(offsets) == 0) | np.asarray(column.is_null())
        return column.values.take(pa.array(offsets[:-1], mask=empty))
    raise UsageError(f"column `{which}` holds no images")


def check_columns(schema: pa.Schema, *names: str) -> None:
    """Raises UsageError where columns of these names are not what the record says, as in somebody else's Parquet."""
    for name in names:
        wanted = COLUMNS.get(name, IMAGE)  # `result` is an image too
        kind = schema.field(name).type if name in schema.names else wanted
        if not _reads_as(kind, wanted) and (name, kind) != ("source", IMAGE):
            image = wanted in (IMAGE, pa.list_(IMAGE))
            raise UsageError(
                f"column `{name}` " + ("holds no images" if image else f"is not the `{name}` of a record"),
                hint="`edit shard` makes records of any table",
            )


def edited_column(schema: pa.Schema, named: str | None) -> str:
    """The column of the edited image: the one that is named, or `result` where `sample` left one, else `target`."""
    return named or ("result" if "result" in schema.names else "target")


def check_instructions(schema: pa.Schema, name: str) -> None:
    """Raises UsageError where a column of this name holds no instructions."""
    if name not in schema.names:
        return
    kind = schema.field(name).type
    fields = list(kind) if pa.types.is_struct(kind) else []
    worded = bool(fields) and all(_reads_as(field.type, pa.string()) for field in fields)
    if not (worded or pa.types.is_null(kind)) or COLUMNS.get(name, TEXT) != TEXT:
        raise UsageError(
            f"column `{name}` holds no instructions", hint="an instruction is a text by language, such as {en: ..}"
        )


def check_any_images(schema: pa.Schema) -> None:
    """Raises UsageError where no column is one that rows have images in, as in somebody else's Parquet."""
    if not {"source", "target"} & set(schema.names):
        raise UsageError(
            "the input has neither a `source` nor a `target` image",
            hint=f"`edit shard --map target=COLUMN` makes it one; it has: {', '.join(schema.names)}",
        )


def _reads_as(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be used as those of another; fields that only one of them has do not matter."""
    if pa.types.is_null(kind):
        return True
    if wanted == IMAGE:
        return bool(kind == IMAGE)
    if pa.types.is_struct(wanted):
        fields = {field.name: field.type for field in wanted}
        return pa.types.is_struct(kind) and all(_reads_as(f.type, fields[f.name]) for f in kind if f.name in fields)
    if pa.types.is_list(wanted):
        return pa.types.is_list(kind) and _reads_as(kind.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def target_references(rows: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The target of every row; None where it has none, or where there is no such column."""
    return column_references(rows, "target")


def column_references(rows: pa.RecordBatch, name: str) -> list[dict[str, Any] | None]:
    """The image of every row in a column; None where it has none, or where there is no such column."""
    index = rows.schema.get_field_index(name)
    if index < 0 or pa.types.is_null(rows.column(index).type):
        return [None] * rows.num_rows
    return list(image_references(rows.column(index)))


def source_references(rows: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """The sources of every row; none where there is no such column."""
    return list_references(rows, "source")


def list_references(rows: pa.RecordBatch, name: str) -> list[list[dict[str, Any]]]:
    """The images of every row in a column of lists; none where there is no such column."""
    return [[item for item in items if item is not None] for items in list_slots(rows, name)]


def list_slots(rows: pa.RecordBatch, name: str) -> list[list[dict[str, Any] | None]]:
    """list_references() with None where a list has a place without an image."""
    index = rows.schema.get_field_index(name)
    if index < 0 or pa.types.is_null(rows.column(index).type):
        return [[] for _ in range(rows.num_rows)]
    column = rows.column(index)
    if column.type == IMAGE:  # of somebody else's Parquet: one source per row
        return [[item] if item is not None else [] for item in image_references(column)]
    offsets = np.asarray(column.offsets).tolist()
    flat = list(image_references(column.values.slice(offsets[0], offsets[-1] - offsets[0])))
    return [flat[offsets[k] - offsets[0] : offsets[k + 1] - offsets[0]] for k in range(rows.num_rows)]


def whole_list(items: list[dict[str, Any] | None], what: str) -> list[dict[str, Any]]:
    """The images of a list without gaps. Raises RowError: what an instruction calls by number has to be there."""
    for number, item in enumerate(items, start=1):
        if item is None:
            raise RowError(f"{what} {number} of {len(items)} is missing")
    return [item for item in items if item is not None]


def image_value(pixels: np.ndarray) -> dict[str, Any]:
    """An IMAGE value that holds new pixels as PNG."""
    height, width = pixels.shape[:2]
    return reference(bytes=codec.encode_png(pixels), width=width, height=height, format="png")
