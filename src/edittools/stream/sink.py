"""The interface of outputs; their formats are in writers/, one per file."""

from __future__ import annotations

from typing import BinaryIO, Protocol

import pyarrow as pa

from edittools.errors import EditError
from edittools.record import IMAGE
from edittools.stream import files
from edittools.stream.batch import Batch, Reject, Shard, map_batch_images
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.ipc import Counts

INLINE_ROWS = 32  # whose bytes are in memory at a time


class Sink(Protocol):
    """Where batches go. `write` returns the rejects that the sink itself found."""

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None: ...
    def done(self, shard: Shard) -> Counts | None: ...
    def write(self, batch: Batch) -> list[Reject]: ...
    def finish(self, counts: Counts) -> None: ...
    def abort(self) -> None: ...


def require_id(schema: pa.Schema) -> None:
    """A row's members in a tar are named by its id. Raises EditError where there is none."""
    if schema.get_field_index("id") < 0 or schema.field("id").type != pa.string():
        raise EditError("the rows have no column `id` of text", hint="name one: `edit shard --map id=COLUMN`")


class FileSink:
    """One file, or standard output: what tar, Parquet, streams and lines have in common."""

    packs = False  # whether the bytes of images are written

    def __init__(self, path: str | None, stdout: BinaryIO | None, overwrite: bool) -> None:
        self.path, self.stdout = path, stdout
        self.fetcher = Fetcher()
        self.pending: files.AtomicFile | None = None
        if path is not None:
            files.refuse_existing(path, overwrite)

    def _target(self) -> BinaryIO:
        if self.path is None:
            assert self.stdout is not None
            return self.stdout
        self.pending = files.AtomicFile(self.path)
        return self.pending.file

    def done(self, shard: Shard) -> Counts | None:
        return None

    def _commit(self) -> None:
        if self.pending is not None:
            self.pending.commit()
        elif self.stdout is not None:
            self.stdout.flush()

    def abort(self) -> None:
        if self.pending is not None:
            self.pending.discard()


_VIEW = pa.struct([field for field in IMAGE if field.name != "bytes"])


def without_bytes(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with references in place of images that are inline."""
    return map_batch_images(rows, IMAGE, lambda path, values: _view(values))


def _view(values: pa.StructArray) -> pa.StructArray:
    children = dict(zip([field.name for field in values.type], values.flatten()))
    mask = values.is_null() if values.null_count else None
    return pa.StructArray.from_arrays([children[f.name] for f in _VIEW], fields=list(_VIEW), mask=mask)
