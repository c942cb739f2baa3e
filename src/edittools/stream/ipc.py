"""The stream between commands: an Arrow IPC stream that knows whether it ended.

FORMAT

The stream is an Arrow IPC stream. Its schema metadata holds:

`edit.version`  version of this format, now 1.

`edit.rows`     an upper bound of the rows that the source reads, where one is known.

`edit.history`  JSON: the graph of commands that made the data. Each command appends a node {command, version,
settings, inputs, hash}; `heads` are the hashes of the newest nodes.

Images are structs {bytes, file, offset, length, row, column, etag, width, height, format}. Either `bytes` is
set, or the rest is a reference: `length` bytes at `offset` of `file`, or `row` of `column` of a Parquet `file`.
`etag` is SIZE-MTIME_NS of a local file and the store's own tag of an object; a reader that finds another tag
stops, because the file changed under the running pipeline. A tag that starts with `!` says why there is nothing to
read (`!missing file`): the row is rejected for this reason when its image is wanted. Width and height are those
of the image as it is shown, with its EXIF orientation applied.

A batch has at most 256 rows, all of one input shard. Its custom metadata `edit.batch` is JSON: {shard, of,
digest, last, more, seen, rejects}: the shard's number (from 0), the number of shards (null while unknown), a digest
of the shard's content (empty before the last batch where only reading all of the shard tells it), whether this
batch closes the shard, whether the next one was written in one piece with it and may be joined to it (absent: no),
how many rows the source read for this batch, and the rows that were rejected on the way, which travel along so that
the last command can write them down.

END RECORD

The last batch is empty and its custom metadata `edit.end` is JSON {rows, kept, failed}: rows read by the
source, rows in this stream, rows that failed. An Arrow stream whose writer died between two batches reads as
complete; a reader that meets the end of the file without the end record throws away the shard it has not
committed and exits with status 4. After an end record another stream may follow, so that
`cat a.arrows b.arrows | edit ...` works; its columns must be those of the first.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from edittools.errors import DamagedError, EditError, IncompleteError, describe
from edittools.record import IMAGE
from edittools.stream.batch import Batch, Reject, Shard, empty_batch, map_schema
from edittools.stream.history import History, digest

VERSION = 1
BATCH_ROWS = 256
_PIPE_BYTES = 1 << 20
_WRITE_BYTES = 1 << 20
_JOINED_BYTES = 8 << 20  # of one batch, at most, that is in memory at once in the process that reads it too


@dataclass
class Counts:
    """Rows the source read, rows that came through, rows that failed (as against dropped by a decision)."""

    rows: int = 0
    kept: int = 0
    failed: int = 0

    def add(self, batch: Batch) -> None:
        self.rows += batch.seen
        self.kept += batch.rows.num_rows
        self.failed += sum(reject.failed for reject in batch.rejects)

    def to_dict(self) -> dict[str, int]:
        return {"rows": self.rows, "kept": self.kept, "failed": self.failed}


def grow_pipe(file: BinaryIO | io.RawIOBase) -> None:
    """Ask for a larger pipe buffer, where the system has such a thing; 64 KiB holds barely one batch."""
    try:
        import fcntl

        fcntl.fcntl(file.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError, ValueError):
        return


class IpcWriter:
    """Writes one stream to a binary file. What a stage gives is flushed, so that a slow one starves nobody."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, history: History, rows: int | None) -> None:
        metadata = {"edit.version": str(VERSION), "edit.history": history.to_json()}
        if rows is not None:
            metadata["edit.rows"] = str(rows)
        self.file = file
        self.schema = schema.with_metadata(metadata)
        self.counts = Counts()
        self.position: tuple[Shard, bool, bool, int] | None = None
        self.note = ""
        # Arrow writes a batch in dozens of small pieces: they are gathered before they reach Python.
        self.buffered = pa.BufferedOutputStream(pa.PythonFile(GuardedFile(file), mode="w"), _WRITE_BYTES)
        self.writer = pa.ipc.new_stream(self.buffered, self.schema)
        self._flush()

    def write(self, batch: Batch) -> None:
        self.counts.add(batch)
        total = batch.rows.num_rows
        if total <= BATCH_ROWS:
            self._write_one(batch)
        else:
            joinable = batch.rows.nbytes <= _JOINED_BYTES
            for start in range(0, total, BATCH_ROWS):
                stop = min(start + BATCH_ROWS, total)
                piece = batch.slice(start, stop)
                piece.more = joinable and stop < total
                self._write_one(piece)
        self._flush()

    def _write_one(self, batch: Batch) -> None:
        if not batch.rows.num_rows and not batch.last and not batch.rejects and not batch.seen:
            return
        if batch.rejects:
            note = _note(batch)
        else:  # most batches say what the one before them said
            position = (batch.shard, batch.last, batch.more, batch.seen)
            if position != self.position:
                self.position, self.note = position, _note(batch)
            note = self.note
        self.writer.write_batch(batch.rows, custom_metadata={"edit.batch": note})

    def end(self) -> None:
        """Write the end record. Without it every reader knows that this stream was cut off."""
        record = {"edit.end": json.dumps(self.counts.to_dict())}
        self.writer.write_batch(empty_batch(self.schema), custom_metadata=record)
        self.writer.close()
        self._flush()

    def _flush(self) -> None:
        self.buffered.flush()
        self.file.flush()


def _note(batch: Batch) -> str:
    """`edit.batch` as JSON."""
    fields = {
        "shard": batch.shard.index,
        "of": batch.shard.count,
        "digest": batch.shard.digest,
        "last": batch.last,
        "more": batch.more,
        "seen": batch.seen,
        "rejects": [reject.to_dict() for reject in batch.rejects],
    }
    return json.dumps(fields, default=str)


class GuardedFile(io.RawIOBase):
    """A file as pyarrow is given it. pyarrow closes what it is given, and the file belongs to the caller.

    A writer of pyarrow's that is thrown away still writes its end, so that half a file would read as a whole one:
    what is written after `shut` is set goes nowhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.shut = file, False

    def write(self, data: Any) -> int:
        if not self.shut:
            self.file.write(data)
        return len(data)

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """Turn pyarrow's complaints about malformed bytes into one line about the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, pa.ArrowException):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(f"{name}: damaged Arrow data: {text}") from error


def check_names(schema: pa.Schema, name: str) -> None:
    """Raises EditError where two columns share a name, and UnicodeDecodeError where a name is not UTF-8.

    pyarrow looks at either only when somebody asks for the column.
    """
    map_schema(schema, IMAGE, IMAGE)
    double = [column for column in schema.names if schema.get_field_index(column) < 0]
    if double:
        path = name if name.endswith(".parquet") else "FILE"
        raise EditError(
            f"{name}: two columns are called `{double[0]}`: which is meant?",
            hint=f"duckdb tells them apart, as `{double[0]}` and `{double[0]}_1`: python -c "
            f"\"import duckdb; duckdb.sql(\\\"copy (from '{path}') to 'new.parquet'\\\")\"",
        )


class IpcReader:
    """Reads one or several streams that follow each other in a binary file."""

    def __init__(self, file: io.BufferedReader[Any], name: str) -> None:
        self.name = name
        self.file = file
        self.source = pa.PythonFile(file, mode="r")
        self.base = 0  # number of shards in the streams before this one
        self.streams = 0
        self._open()
        self.schema = self.reader.schema.remove_metadata()
        metadata = self.reader.schema.metadata or {}
        try:
            self.history = History.from_json(metadata.get(b"edit.history"))
            self.rows = int(metadata[b"edit.rows"]) if b"edit.rows" in metadata else None
        except ValueError as error:
            raise EditError(f"{name}: damaged stream header: {error}") from error

    def _open(self) -> None:
        try:
            with arrow_errors(self.name):
                self.reader = pa.ipc.open_stream(self.source)
                check_names(self.reader.schema, self.name)
        except EditError:
            if self.file.peek(1):
                raise
            raise self._cut_off() from None
        version = (self.reader.schema.metadata or {}).get(b"edit.version")
        if version is None:
            raise EditError(
                f"{self.name}: an Arrow stream, but not one that edittools wrote (no edit.version)",
                hint="write it as Parquet and give the file's name",
            )
        if version != str(VERSION).encode():
            raise EditError(
                f"{self.name}: stream version {version.decode(errors='replace')}, this edittools reads {VERSION}",
                hint="use one release of edittools in the whole pipeline",
            )
        self.streams += 1

    def batches(self) -> Iterator[Batch]:
        """Every batch of every stream. Raises IncompleteError where a stream has no end record."""
        while True:
            yield from self._one_stream()
            if not self._another():
                return

    def _one_stream(self) -> Iterator[Batch]:
        counts, highest, stated = Counts(), -1, 0
        batch: Batch | None = None
        note: bytes | None = None
        while True:
            try:
                with arrow_errors(self.name):
                    rows, metadata = self.reader.read_next_batch_with_custom_metadata()
                    rows.validate(full=True)
            except StopIteration:
                raise self._cut_off() from None
            except EditError:
                # A writer may die in the middle of a message too; then nothing follows the half of it.
                if self.file.peek(1):
                    raise
                raise self._cut_off() from None
            notes = dict(metadata or {})
            if b"edit.end" in notes:
                self._check_end(notes[b"edit.end"], counts)
                self.base += max(highest + 1, stated)
                return
            if batch is not None and note == notes.get(b"edit.batch") and not batch.rejects:
                batch = batch.replace(rows)  # most batches say what the one before them said
            else:
                note = notes.get(b"edit.batch")
                batch = self._batch(rows, note)
            counts.add(batch)
            highest = max(highest, batch.shard.index - self.base)
            stated = max(stated, batch.shard.count or 0)
            yield batch

    def _cut_off(self) -> IncompleteError:
        return IncompleteError(
            f"{self.name}: the stream ended without its end record: its writer died",
            hint="look at the messages of the commands before this one, then run the pipeline again",
        )

    def _batch(self, rows: pa.RecordBatch, note: bytes | None) -> Batch:
        try:
            fields = json.loads(cast(bytes, note))
            count = fields["of"]
            # Later streams add to the number of shards, so only the first one's is a number of shards.
            source_digest = str(fields["digest"])
            if source_digest and self.streams > 1:  # the header that is passed on has only the first stream's history
                source_digest = digest(self.later.hash, source_digest)
            shard = Shard(
                self.base + int(fields["shard"]),
                int(count) if count is not None and self.streams == 1 else None,
                source_digest,
            )
            rejects = [Reject.from_dict(reject) for reject in fields["rejects"]]
            last, more = bool(fields["last"]), bool(fields.get("more"))
            return Batch(rows, shard, last, int(fields["seen"]), rejects, more and not last)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise EditError(f"{self.name}: a batch that does not say where it belongs: {describe(error)}") from error

    def _check_end(self, note: bytes, counts: Counts) -> None:
        try:
            stated = json.loads(note)
            kept = stated["kept"]
        except (KeyError, TypeError, ValueError) as error:
            raise EditError(f"{self.name}: damaged end record: {describe(error)}") from error
        if kept != counts.kept:
            raise IncompleteError(f"{self.name}: {counts.kept} rows arrived, the end record says {kept}")

    def _another(self) -> bool:
        """Whether another stream follows; if so it is opened."""
        try:
            with arrow_errors(self.name), contextlib.suppress(StopIteration):
                self.reader.read_next_batch()  # the end-of-stream mark of the one just read
        except EditError:
            if self.file.peek(1):
                raise
            raise self._cut_off() from None
        if not self.file.peek(1):
            return False
        schema = self.schema
        self._open()
        columns = self.reader.schema.remove_metadata()
        if not columns.equals(schema):
            raise EditError(
                f"{self.name}: stream {self.streams} has other columns than the first: {_difference(schema, columns)}",
                hint="give the files as arguments: `edit cat a.arrows b.arrows` aligns their columns",
            )
        with arrow_errors(self.name):
            metadata = self.reader.schema.metadata or {}
            self.later = History.from_json(metadata.get(b"edit.history"))
        self.history = self.history.merge(self.later)
        return True


def _difference(first: pa.Schema, second: pa.Schema) -> str:
    names = [f"`{n}`" for n in first.names if n not in second.names]
    names += [f"`{n}`" for n in second.names if n not in first.names]
    names += [f"`{n}`" for n in first.names if n in second.names and first.field(n) != second.field(n)]
    return ", ".join(names) or "their order"
