"""The stage that reads the writing in results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.metrics.ocr import LAYOUT_NAMES, NAMES, layout_scores, ocr_scores, read_targets, target_text
from edittools.score.config import ScoreConfig
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.row_images import check_columns, check_instructions, edited_column, row_images, target_references
from edittools.stream.rows import column_values, drop_failed, instructions, map_chunks
from edittools.stream.scores import add_scores, scores_schema


class OcrStage:
    """Stage: `ocr` scores into the column `scores` (metrics.ocr).

    The text that is wanted is that of `targets` by the row's id, otherwise what the instruction has in quotation marks;
    where there is neither, the scores are null.
    """

    name = "score"
    VERSION = 1

    def __init__(self, config: ScoreConfig, *, jobs: int = 1) -> None:
        self.config, self.max_pixels, self.jobs = config, config.max_pixels, jobs
        self.targets = read_targets(config.targets) if config.targets else {}
        self.language, self.column = config.language, config.column
        self.instruction = config.instruction or "instruction"
        self.names = (*NAMES, *LAYOUT_NAMES) if config.layout else NAMES
        self.fetcher = Fetcher()
        self.unwanted: list[int] = []  # rows of this run that no text is wanted of, by pieces of batches

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: the wanted texts, not where they lie."""
        targets = digest(canonical_json(self.targets)) if self.config.targets else None
        return self.config.recorded(targets=targets, **self.config.without_models())

    def remark(self) -> str:
        """A remark for the summary line, beside the counts."""
        rows = sum(self.unwanted)
        return f"no scores for {rows} rows: no --targets and no quotation marks say what is to be read" * bool(rows)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in (edited_column(schema, self.column), self.instruction):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to read")
        check_columns(schema, "target")
        check_instructions(schema, self.instruction)
        return scores_schema(schema, self.names)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _decode(self, reference: dict[str, Any]) -> np.ndarray:
        return codec.decode(self.fetcher.get(reference), codec.FULL, self.max_pixels)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        texts = instructions(rows, self.language, self.instruction)
        ids = column_values(rows, "id")
        made: list[dict[str, float | None]] = []
        failed: dict[int, RowError] = {}
        column = edited_column(rows.schema, self.column)
        images = image_references(row_images(rows, column))
        truths = target_references(rows) if column != "target" else [None] * rows.num_rows
        for row, (reference, text, truth) in enumerate(zip(images, texts, truths)):
            made.append({})
            try:
                if reference is None:
                    raise RowError("no picture to read")
                wanted = self.targets.get(ids[row]) or target_text(text or "")
                if self.config.layout:
                    true = None if truth is None or wanted is None else self._decode(truth)
                    made[-1] = layout_scores(self._decode(reference), wanted, true)
                else:
                    made[-1] = ocr_scores(self._decode(reference), wanted)
            except RowError as error:
                failed[row] = error
        empty = (all(value is None for value in scores.values()) for k, scores in enumerate(made) if k not in failed)
        self.unwanted.append(sum(empty))
        return drop_failed(batch, add_scores(rows, schema, self.names, made), failed, self.name)
