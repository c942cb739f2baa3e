"""JSON lines: a view, with references where images are (inline bytes are left out)."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa

from edittools.stream import rowjson
from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.sink import FileSink, without_bytes

ENDING = ".jsonl"
TEXT = True


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> LinesSink:
    return LinesSink(path, stdout, overwrite)


class LinesSink(FileSink):
    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.file = self._target()

    def write(self, batch: Batch) -> list[Reject]:
        if batch.rows.num_rows:
            rows = without_bytes(batch.rows)
            self.file.write(b"".join(line + b"\n" for line in rowjson.dump_rows(rows)))
            if self.pending is None:
                self.file.flush()  # whoever reads the lines must not wait for a megabyte of them
        return []

    def finish(self, counts: Counts) -> None:
        self._commit()
