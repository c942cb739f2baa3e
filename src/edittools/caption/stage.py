"""The stage that writes instructions in several styles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.caption.captions import caption, style_names
from edittools.caption.config import CaptionConfig
from edittools.errors import RowError, UsageError
from edittools.record import TEXT
from edittools.stream.batch import Batch
from edittools.stream.history import History
from edittools.stream.row_images import check_columns
from edittools.stream.rows import column_values, drop_failed


class CaptionStage:
    """Stage: a column `instruction_STYLE` per style, from the template and slots in a row's provenance.

    A row that no template made gets null: without a model there is nothing exact to say about it.
    """

    name = "caption"
    VERSION = 1

    def __init__(self, config: CaptionConfig) -> None:
        self.config, self.styles, self.seed = config, config.styles, config.seed
        for style in self.styles:
            if style not in style_names():
                raise UsageError(f"--styles: there is no `{style}`", hint="known: " + ", ".join(style_names()))
        if not self.styles:
            raise UsageError("--styles: nothing is left")
        self.unworded = 0  # rows of this run that no template made

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, "provenance")
        for style in self.styles:
            if f"instruction_{style}" in schema.names:
                raise UsageError(f"the input has a column `instruction_{style}` already")
            schema = schema.append(pa.field(f"instruction_{style}", TEXT))
        return schema

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        recorded = self.config.recorded()
        return {name: recorded[name] for name in ("seed", "styles") if name in recorded}

    def remark(self) -> str:
        """A remark for the summary line, beside the counts."""
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
