"""Pairs whose rows say how the edit is undone: the way back is a row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import UsageError
from edittools.record import TEXT
from edittools.stream.batch import Batch
from edittools.stream.columns import in_its_language
from edittools.stream.history import History
from edittools.stream.rows import column_values, map_chunks

# Of the way back these are others, or not known; `task` of what is added is `remove`.
_TURNED = {"add": "remove", "remove": "add"}
_SAME = {"replace", "background", "color", "material", "adjust", "style", "tone", "text", "motion", "viewpoint"}


class Inverse:
    """Stage: behind every row with an instruction in `column` the row that it makes of the target its source again."""

    name = "inverse"
    VERSION = 1

    def __init__(self, column: str, jobs: int = 1) -> None:
        self.column, self.jobs = column, jobs

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        return {}  # the setting is Ingest's

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """Raises UsageError where there is no such column of texts, or there are no pairs."""
        for name in (self.column, "source", "target"):
            if name not in schema.names:
                has = ", ".join(schema.names)
                raise UsageError(f"--inverse {self.column}: the input has no column `{name}`", hint=f"it has: {has}")
        kind = schema.field(self.column).type
        if kind != TEXT and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
            raise UsageError(f"--inverse {self.column}: `{self.column}` is {kind}, and not text")
        return schema.remove(schema.get_field_index(self.column))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs, cheap=True)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        texts = [in_its_language(text) for text in column_values(batch.rows, self.column)]
        rows = batch.rows.select(schema.names)
        sources = column_values(rows, "source")
        back = [
            bool(said and any(said.values()) and source and len(source) == 1) for said, source in zip(texts, sources)
        ]
        if not any(back):
            return batch.replace(rows)
        inverse = rows.filter(pa.array(back))
        columns = {
            "source": [[target] if target is not None else None for target in column_values(inverse, "target")],
            "target": [source[0] for source in column_values(inverse, "source")],
            "instruction": [said for said, turned in zip(texts, back) if turned],
            "id": [f"{identity}-inverse" for identity in column_values(inverse, "id")],
            "provenance": [_behind(known) for known in column_values(inverse, "provenance")],
            "task": [_turned(task) for task in column_values(inverse, "task")],
        }
        for name, values in columns.items():
            at = inverse.schema.get_field_index(name)
            if at >= 0:
                inverse = inverse.set_column(
                    at, inverse.schema.field(at), pa.array(values, inverse.schema.field(at).type)
                )
        for name in inverse.schema.names:  # what was said of the other way: captions, scores
            if name not in (*columns, "mask", "user_id"):
                at = inverse.schema.get_field_index(name)
                field = inverse.schema.field(at)
                inverse = inverse.set_column(at, field, pa.nulls(inverse.num_rows, field.type))
        return batch.replace(_interleaved(rows, inverse, back))


def _behind(known: dict[str, Any] | None) -> dict[str, Any]:
    """The provenance of the way back: the place that of the pair, marked."""
    return {**(known or {}), "path": f"{(known or {}).get('path') or ''}#inverse"}


def _turned(task: str | None) -> str | None:
    return _TURNED.get(task or "", task if task in _SAME else None)


def _interleaved(rows: pa.RecordBatch, inverse: pa.RecordBatch, back: list[bool]) -> pa.RecordBatch:
    """Every row with the one that was made of it behind it."""
    order, number = [], rows.num_rows
    for row, turned in enumerate(back):
        order.append(row)
        if turned:
            order.append(number)
            number += 1
    return pa.Table.from_batches([rows, inverse]).take(pa.array(order)).combine_chunks().to_batches()[0]
