"""Candidates: a row several times, side by side, each with a seed of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from edittools.errors import UsageError
from edittools.record import PROVENANCE
from edittools.stream.batch import Batch, Reject
from edittools.stream.groups import GROUP, group_slices
from edittools.stream.row_images import check_columns
from edittools.stream.rows import column_values

SEED = "seed"
OF_IMAGES = "scores"  # a column that says something of a candidate's image, and nothing of the row it was made from


def candidate_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of the rows with what `candidates` adds. Raises UsageError where they are candidates already."""
    for name in (GROUP, SEED):
        if name in schema.names:
            raise UsageError(
                f"--candidates writes a column `{name}`, and the input has one",
                hint="of candidates no candidates are made: give the rows that they were made from, or --add",
            )
    check_columns(schema, "provenance")
    kind = _provenance(schema)
    index = schema.get_field_index("provenance")
    field = pa.field("provenance", kind)
    schema = schema.set(index, field) if index >= 0 else schema.append(field)
    return schema.append(pa.field(GROUP, pa.string())).append(pa.field(SEED, pa.int64()))


def check_added(schema: pa.Schema, column: str) -> None:
    """Raises UsageError for rows to --add to that are no candidates, with an image in this column."""
    for name in (GROUP, SEED, column):
        if name not in schema.names:
            raise UsageError(f"--add: the input has no column `{name}`: no candidates", hint="leave --add out")
    turns = f"{column}_turns"
    if ("turns" in schema.names) != (turns in schema.names):
        raise UsageError(
            f"--add: of `turns` and `{turns}` the input has one alone", hint="candidates have both or none"
        )


def prompts(rows: pa.RecordBatch, made: list[str]) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """What the candidates of whole groups were made from, a row for each group, and the groups. `made`: the columns
    that candidates have beside it."""
    slices = group_slices(rows)
    first = rows.take(pa.array([start for _, start, _ in slices], pa.int64()))
    first = _with(first, "id", pa.array([name for name, _, _ in slices], pa.string()))
    if OF_IMAGES in first.schema.names:
        first = _with(first, OF_IMAGES, pa.nulls(len(slices), first.schema.field(OF_IMAGES).type))
    first = first.drop_columns([name for name in (GROUP, SEED, *made) if name in first.schema.names])
    return first, [rows.slice(start, stop - start) for _, start, stop in slices]


def following(group: pa.RecordBatch, seed: int) -> tuple[int, int]:
    """Number and seed of a group's next candidate: behind all that there are, of which some may have been lost."""
    [(name, _, _)] = group_slices(group)
    tails = [identity.removeprefix(f"{name}-c") for identity in column_values(group, "id")]
    number = max([group.num_rows, *(int(tail) + 1 for tail in tails if tail.isdecimal())])
    return number, max([seed + number, *(each + 1 for each in column_values(group, SEED) if each is not None)])


def with_added(groups: list[pa.RecordBatch], new: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Every group, and behind it its new candidates, of which it may have none; columns of the schema, in its order."""
    new = new.select(schema.names).cast(schema)
    slices = {name: new.slice(start, stop - start) for name, start, stop in group_slices(new)}
    names = (group_slices(group)[0][0] for group in groups)
    both = [part for group, name in zip(groups, names) for part in (group, slices.get(name)) if part is not None]
    return pa.concat_batches([part.cast(schema) for part in both]) if both else new


def candidates(batch: Batch, count: int, seed: int, model: str, first: list[tuple[int, int]] | None = None) -> Batch:
    """Every row `count` times: row A is A-c0, A-c1, ... with `group` A and the seeds `seed`, `seed` + 1, ...

    The provenance of a candidate names its row as the parent, the model and the seed. first: number and seed of every
    row's first candidate; None: 0 and `seed`. Raises UsageError where a seed has more than 64 bits.
    """
    rows = batch.rows
    ids = column_values(rows, "id")
    kind = _provenance(rows.schema)
    origins = column_values(rows, "provenance")
    made = rows.take(pa.array([row for row in range(rows.num_rows) for _ in range(count)], pa.int64()))
    begin = first or [(0, seed)] * rows.num_rows
    if any(start + count > 1 << 63 for _, start in begin):
        raise UsageError("--add: the last of the new seeds has more than 64 bits")
    several = [(row, begin[row][0] + k, begin[row][1] + k) for row in range(rows.num_rows) for k in range(count)]
    values: list[dict[str, Any]] = [
        {**(origins[row] or {}), "model": model, "seed": own, "parents": [str(ids[row])]} for row, _, own in several
    ]
    made = _with(made, "id", pa.array([f"{ids[row]}-c{k}" for row, k, _ in several], pa.string()))
    made = _with(made, "provenance", pa.array(values, kind))
    made = _with(made, GROUP, pa.array([str(ids[row]) for row, _, _ in several], pa.string()))
    made = _with(made, SEED, pa.array([own for _, _, own in several], pa.int64()))
    return batch.replace(made)


def lost_rows(rejects: list[Reject], count: int) -> list[Reject]:
    """One reject for a row of which no candidate could be made, not `count` of them: it is one row that failed."""
    of: dict[str, list[Reject]] = {}
    for reject in rejects:
        of.setdefault(reject.id.rpartition("-c")[0], []).append(reject)
    return [reject for row, few in of.items() for reject in ([replace(few[0], id=row)] if len(few) == count else few)]


def _provenance(schema: pa.Schema) -> pa.DataType:
    """The rows' own provenance, with the record's fields that it lacks."""
    index = schema.get_field_index("provenance")
    own = schema.field(index).type if index >= 0 else pa.null()
    fields = list(own) if pa.types.is_struct(own) else []
    return pa.struct([*fields, *(field for field in PROVENANCE if field.name not in {f.name for f in fields})])


def _with(rows: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, name, column) if index >= 0 else rows.append_column(name, column)
