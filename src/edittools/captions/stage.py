"""The stage that writes instructions in several styles."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa

from edittools.captions import caption
from edittools.errors import RowError, UsageError
from edittools.record import TEXT
from edittools.stream.batch import Batch
from edittools.stream.pictures import check_columns
from edittools.stream.rows import column_values, drop_failed


class CaptionStage:
    """Stage: a column `instruction_STYLE` per style, from the template and slots in a row's provenance.

    A row that no template made gets null: without a model there is nothing exact to say about it.
    """

    name = "caption"

    def __init__(self, *, styles: list[str], seed: int) -> None:
        self.styles, self.seed = styles, seed
        self.unworded = 0  # rows of this run that no template made

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, "provenance")
        for style in self.styles:
            if f"instruction_{style}" in schema.names:
                raise UsageError(f"the input has a column `instruction_{style}` already")
            schema = schema.append(pa.field(f"instruction_{style}", TEXT))
        return schema

    def remark(self) -> str:
        """What a run has to say beside its counts."""
        return f"nothing written for {self.unworded} rows, which no template of `edit synth` made" * bool(self.unworded)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield self._caption(batch)

    def _caption(self, batch: Batch) -> Batch:
        rows = batch.rows
        written: dict[str, list[dict | None]] = {style: [] for style in self.styles}
        failed: dict[int, RowError] = {}
        ids = column_values(rows, "id")
        for number, origin in enumerate(column_values(rows, "provenance")):
            texts: dict[str, dict] = {}
            if origin and origin.get("template") and origin.get("slots"):
                try:
                    texts = caption(origin["template"], json.loads(origin["slots"]), ids[number], seed=self.seed)
                except (KeyError, ValueError, TypeError) as error:
                    failed[number] = RowError("unknown template", f"{origin['template']}: {error}")
            else:
                self.unworded += 1
            for style in self.styles:
                written[style].append(texts.get(style))
        for style, values in written.items():
            rows = rows.append_column(f"instruction_{style}", pa.array(values, TEXT))
        return drop_failed(batch, rows, failed, self.name)
