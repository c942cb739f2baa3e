"""The stage that reads the writing in results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.judges.ocr import NAMES, ocr_scores, target_text
from edittools.stream import images
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, leaf_references
from edittools.stream.pictures import check_columns, row_pictures
from edittools.stream.rows import column_values, drop_failed, instructions, map_chunks
from edittools.stream.scores import add_scores, scores_schema


class OcrStage:
    """Stage: `ocr` scores into the column `scores` (judges.ocr).

    The text that is wanted is that of `targets` by the row's id, otherwise what the instruction has in quotation marks;
    where there is neither, the scores are null.
    """

    name = "judge"
    version = images.VERSION

    def __init__(
        self,
        *,
        language: str | None,
        column: str | None,
        max_pixels: int,
        jobs: int,
        targets: Mapping[str, str] | None = None,
    ) -> None:
        self.targets = targets or {}
        self.language, self.column, self.max_pixels, self.jobs = language, column, max_pixels, jobs
        self.fetcher = Fetcher()
        self.unwanted: list[int] = []  # rows of this run that no text is wanted of, by pieces of batches

    def remark(self) -> str:
        """What a run has to say beside its counts."""
        rows = sum(self.unwanted)
        return f"no scores for {rows} rows: no --targets and no quotation marks say what is to be read" * bool(rows)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in (self._column(schema), "instruction"):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to read")
        check_columns(schema, "instruction")
        return scores_schema(schema, NAMES)

    def _column(self, schema: pa.Schema) -> str:
        return self.column or ("result" if "result" in schema.names else "target")

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        texts = instructions(rows, self.language)
        ids = column_values(rows, "id")
        made: list[dict[str, float | None]] = []
        failed: dict[int, RowError] = {}
        pictures = leaf_references(row_pictures(rows, self._column(rows.schema)))
        for row, (reference, text) in enumerate(zip(pictures, texts)):
            made.append({})
            try:
                if reference is None:
                    raise RowError("no picture to read")
                pixels = images.decode(self.fetcher.get(reference), images.FULL, self.max_pixels)
                made[-1] = ocr_scores(pixels, self.targets.get(ids[row]) or target_text(text or ""))
            except RowError as error:
                failed[row] = error
        empty = (all(value is None for value in scores.values()) for k, scores in enumerate(made) if k not in failed)
        self.unwanted.append(sum(empty))
        return drop_failed(batch, add_scores(rows, schema, NAMES, made), failed, self.name)
