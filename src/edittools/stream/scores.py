"""The column `scores`: a record of named numbers, to which one command after the other adds its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from edittools.errors import UsageError


def score_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The scores that rows have already. Raises UsageError where `scores` is something else."""
    kind = schema.field("scores").type if "scores" in schema.names else pa.struct([])
    if not pa.types.is_struct(kind):
        raise UsageError("column `scores` is not a record of scores")
    return {field.name: field.type for field in kind}


def scores_schema(
    schema: pa.Schema,
    names: Iterable[str],
    beside: Mapping[str, pa.DataType] | None = None,
    without: Iterable[str] = (),
) -> pa.Schema:
    """The schema with these scores declared as numbers, and the columns `beside` them: last, in this order.

    Scores `without` which the rows go on are left out, unless they are among `names`.
    """
    own, gone = dict.fromkeys(names, pa.float64()), set(without)
    types = {name: kind for name, kind in score_types(schema).items() if name in own or name not in gone} | own
    added = {"scores": pa.struct(list(types.items())), **(beside or {})}
    return pa.schema([*((c.name, c.type) for c in schema if c.name not in added), *added.items()])


def add_scores(
    rows: pa.RecordBatch,
    schema: pa.Schema,
    names: Iterable[str],
    values: Sequence[Mapping[str, Any]],
    beside: Mapping[str, pa.Array] | None = None,
) -> pa.RecordBatch:
    """The rows in a `scores_schema`: `names` out of `values` (null where a row has none), the rest as it was."""
    own = set(names)
    old: dict[str, pa.Array] = {}
    if "scores" in rows.schema.names:
        column = rows.column("scores")
        old = dict(zip([field.name for field in column.type], column.flatten()))
    kind = schema.field("scores").type
    children = [
        pa.array([row.get(field.name) for row in values], pa.float64()) if field.name in own else old[field.name]
        for field in kind
    ]
    made = {"scores": pa.StructArray.from_arrays(children, fields=list(kind)), **(beside or {})}
    return pa.record_batch([made[c.name] if c.name in made else rows.column(c.name) for c in schema], schema=schema)


def score_values(rows: pa.RecordBatch, name: str) -> list[float | None]:
    """A score of every row; None where a row has none, or what is no number. Raises UsageError for a name unknown."""
    check_score(rows.schema, name)
    column = rows.column("scores")
    values = column.flatten()[column.type.get_field_index(name)].to_pylist()
    return [float(value) if value is not None and math.isfinite(value) else None for value in values]


def check_score(schema: pa.Schema, name: str) -> None:
    """Raises UsageError where the rows have no such score."""
    known = score_types(schema)
    if name not in known:
        raise UsageError(
            f"the input has no score `{name}`",
            hint=f"it has: {', '.join(known)}" if known else "`edit score`, `edit judge` and `edit filter` make scores",
        )
