"""The Arrow stream of `ipc`, with references, or with everything inline."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa

from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History
from edittools.stream.ipc import Counts, IpcWriter
from edittools.stream.rows import inline_rows
from edittools.stream.sink import INLINE_ROWS, FileSink

ENDING = ".arrows"


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> ArrowSink:
    return ArrowSink(path, stdout, overwrite, inline)


class ArrowSink(FileSink):
    def __init__(self, path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> None:
        super().__init__(path, stdout, overwrite)
        self.inline = self.packs = inline

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.ipc = IpcWriter(self._target(), schema, history, rows)

    def write(self, batch: Batch) -> list[Reject]:
        if not self.inline or not batch.rows.num_rows:
            self.ipc.write(batch)
            return []
        found: list[Reject] = []
        for start in range(0, batch.rows.num_rows, INLINE_ROWS):
            piece = batch.slice(start, min(start + INLINE_ROWS, batch.rows.num_rows))
            rows, rejects = inline_rows(piece.rows, self.fetcher, "write")
            self.ipc.write(piece.replace(rows, rejects))
            found += rejects
        return found

    def finish(self, counts: Counts) -> None:
        self.ipc.end()
        self._commit()
