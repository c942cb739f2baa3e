"""A Markdown table of ids and instructions."""

from typing import BinaryIO

import pyarrow as pa

from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.sink import FileSink

ENDING = ".md"
TEXT = True


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> "MarkdownSink":
    return MarkdownSink(path, stdout, overwrite)


class MarkdownSink(FileSink):
    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.file = self._target()
        self.file.write(b"| id | task |\n|---|---|\n")

    def write(self, batch: Batch) -> list[Reject]:
        for row in batch.rows.select(["id", "task"]).to_pylist():
            self.file.write(f"| {row['id']} | {row['task']} |\n".encode())
        return []

    def finish(self, counts: Counts) -> None:
        self._commit()
