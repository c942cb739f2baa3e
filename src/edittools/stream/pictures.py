"""The pictures of rows, as the stages use them: one per row, all sources, or new pixels as a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import UsageError
from edittools.record import IMAGE
from edittools.stream import images
from edittools.stream.fetch import leaf_references
from edittools.stream.units import reference


def row_pictures(rows: pa.RecordBatch, which: str) -> pa.StructArray:
    """One picture per row: the target, or the first source; null where there is none.

    Raises UsageError where the columns hold no such picture.
    """
    index = rows.schema.get_field_index(which)
    if index < 0:
        raise UsageError(f"the input has no `{which}` picture", hint="it has: " + ", ".join(rows.schema.names))
    column = rows.column(index)
    if column.type == IMAGE:
        return column
    if pa.types.is_list(column.type) and column.type.value_type == IMAGE:
        offsets = np.asarray(column.offsets)
        empty = (np.diff(offsets) == 0) | np.asarray(column.is_null())
        return column.values.take(pa.array(offsets[:-1], mask=empty))
    raise UsageError(f"column `{which}` holds no pictures")


def target_references(rows: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The target of every row; None where it has none, or where there is no such column."""
    index = rows.schema.get_field_index("target")
    return [None] * rows.num_rows if index < 0 else list(leaf_references(rows.column(index)))


def source_references(rows: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """The sources of every row; none where there is no such column."""
    return list_references(rows, "source")


def list_references(rows: pa.RecordBatch, name: str) -> list[list[dict[str, Any]]]:
    """The pictures of every row in a column of lists; none where there is no such column."""
    index = rows.schema.get_field_index(name)
    if index < 0:
        return [[] for _ in range(rows.num_rows)]
    column = rows.column(index)
    offsets = np.asarray(column.offsets).tolist()
    flat = list(leaf_references(column.values.slice(offsets[0], offsets[-1] - offsets[0])))
    return [
        [item for item in flat[offsets[k] - offsets[0] : offsets[k + 1] - offsets[0]] if item is not None]
        for k in range(rows.num_rows)
    ]


def picture_value(pixels: np.ndarray) -> dict[str, Any]:
    """An IMAGE value that holds new pixels as PNG."""
    height, width = pixels.shape[:2]
    return reference(bytes=images.encode_png(pixels), width=width, height=height, format="png")
