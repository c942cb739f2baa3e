"""The first rows, for a person at a terminal."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa

from edittools.stream.batch import Batch, Reject, Shard
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.sink import without_bytes

TO = "terminal"


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> TableSink:
    return TableSink()


class TableSink:
    ROWS = 12

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.total = 0

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.schema = schema

    def done(self, shard: Shard) -> Counts | None:
        return None

    def write(self, batch: Batch) -> list[Reject]:
        self.total += batch.rows.num_rows
        wanted = self.ROWS - len(self.rows)
        if wanted > 0 and batch.rows.num_rows:
            self.rows += without_bytes(batch.rows.slice(0, wanted)).to_pylist()
        return []

    def finish(self, counts: Counts) -> None:
        from rich.console import Console
        from rich.table import Table

        shown = [n for n in self.schema.names if any(row[n] not in (None, [], {}) for row in self.rows)]
        table = Table(*shown, caption=f"{self.total} rows" + (f", the first {len(self.rows)}" if self.total else ""))
        for row in self.rows:
            table.add_row(*(_cell(row[name]) for name in shown))
        Console().print(table)

    def abort(self) -> None:
        return


def _cell(value: Any) -> str:
    """A value as a short piece of text for a table."""
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_cell(item) for item in value[:3])
    if isinstance(value, dict):
        if value.keys() >= {"width", "height", "format"}:
            size = f"{value['width']}×{value['height']}" if value["width"] else "image"
            return f"{size} {value['format'] or ''}".strip()
        shown = {key: item for key, item in value.items() if item is not None and key != "sha256"}  # of provenance
        return "\n".join(f"{key}: {_cell(item)}" for key, item in shown.items())[:200]
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(str(value))[:80]
