"""The stage that edits rows with a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.models.editors import Editor, EditRequest
from edittools.record import IMAGE
from edittools.stream import images
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.pictures import picture_value, source_references
from edittools.stream.rows import column_values, drop_failed, in_language


def row_seed(seed: int, identity: str) -> int:
    """The seed of a row: a function of the run's seed and the row's id only."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode()).digest()[:7], "little")


class SampleStage:
    """Stage: the editor's picture in a column of its own; sources and target stay as they are.

    With `shuffle` every row is edited by the instruction of another row of its shard, one that is worded otherwise:
    a model that reads its instructions does clearly worse then.
    """

    name = "sample"

    def __init__(
        self,
        editor: Editor,
        *,
        column: str,
        language: str | None,
        seed: int,
        batch_size: int,
        shuffle: bool,
        max_pixels: int,
    ) -> None:
        self.editor, self.column, self.language, self.seed = editor, column, language, seed
        self.batch_size, self.shuffle, self.max_pixels = batch_size, shuffle, max_pixels
        self.fetcher = Fetcher()

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in ("source", "instruction"):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to edit")
        if self.column in schema.names:
            raise UsageError(f"--column {self.column}: the input has such a column already")
        return schema.append(pa.field(self.column, IMAGE))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in _whole_shards(batches) if self.shuffle else batches:
            total = batch.rows.num_rows
            texts = self._instructions(batch.rows)
            for start in range(0, max(total, 1), self.batch_size):
                stop = min(start + self.batch_size, total)
                yield self._edit(batch.slice(start, stop), texts[start:stop])

    def _instructions(self, rows: pa.RecordBatch) -> list[str | None]:
        texts = [in_language(item or {}, self.language) for item in column_values(rows, "instruction")]
        return _exchanged(texts) if self.shuffle else texts

    def _edit(self, batch: Batch, texts: list[str | None]) -> Batch:
        rows = batch.rows
        ids = column_values(rows, "id")
        failed: dict[int, RowError] = {}
        requests: dict[int, EditRequest] = {}
        for row, references in enumerate(source_references(rows)):
            try:
                text = texts[row]
                if text is None:
                    raise RowError("no instruction" if self.language is None else f"no instruction in {self.language}")
                if not references:
                    raise RowError("no source picture")
                sources = [images.decode(self.fetcher.get(r), images.FULL, self.max_pixels) for r in references]
                height, width = sources[0].shape[:2]
                requests[row] = EditRequest(sources, text, row_seed(self.seed, ids[row]), height, width)
            except RowError as error:
                failed[row] = error
        made = dict(zip(requests, self.editor.edit(list(requests.values())))) if requests else {}
        values = [picture_value(np.ascontiguousarray(made[row])) if row in made else None for row in range(len(ids))]
        return drop_failed(batch, rows.append_column(self.column, pa.array(values, IMAGE)), failed, self.name)


def _whole_shards(batches: Iterator[Batch]) -> Iterator[Batch]:
    """One batch per shard, so that what a row is exchanged with does not depend on how the rows arrive."""
    gathered: list[Batch] = []
    for batch in batches:
        gathered.append(batch)
        if batch.last:
            rows = pa.concat_batches([part.rows for part in gathered])
            rejects = [reject for part in gathered for reject in part.rejects]
            yield Batch(rows, batch.shard, True, sum(part.seen for part in gathered), rejects)
            gathered = []
    yield from gathered


def _exchanged(texts: list[str | None]) -> list[str | None]:
    """Every text at another row's place: sorted by a hash, then moved on to the next that differs."""
    order = sorted(range(len(texts)), key=lambda k: hashlib.sha256(f"{k}\0{texts[k]}".encode()).digest())
    result: list[str | None] = list(texts)
    for position, row in enumerate(order):
        for step in range(1, len(order)):
            other = texts[order[(position + step) % len(order)]]
            if other is not None and other != texts[row]:
                result[row] = other
                break
    return result
