"""Inputs that come through a pipe, or as Arrow streams in files: read in order, and known by their first bytes."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import xxhash

from edittools.errors import DamagedError, EditError, IncompleteError
from edittools.stream import files, records, rowgroups
from edittools.stream.batch import Batch, Shard, empty_batch
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, digest
from edittools.stream.input_reader import image_bytes, reference
from edittools.stream.ipc import IpcReader
from edittools.stream.mapping import Mapping
from edittools.stream.pack import unpack_rows
from edittools.stream.readers import archive, reader_for_file
from edittools.stream.readers.lines import LinesReader
from edittools.stream.readers.parquet import ParquetReader
from edittools.stream.rows import inline_rows
from edittools.stream.schemas import align, unify
from edittools.stream.source import FileSource, Select, Source
from edittools.stream.tar import Member, TarReader, Window

_OURS = b'comment={"edittools"'  # in the first header of our own tars
_INLINE_ROWS = 32  # rows whose images are in memory together


class IpcSource:
    """An Arrow stream, from a pipe or a file."""

    shards = None

    def __init__(self, reader: IpcReader, replayable: bool = False) -> None:
        self.reader = reader
        self.schema, self.history, self.rows = reader.schema, reader.history, reader.rows
        self.replayable = False

    def batches(self, select: Select) -> Iterator[Batch]:
        return self.reader.batches()


class IpcFileSource:
    """Arrow streams in files, which can be read twice; the columns of several are aligned."""

    shards = None
    replayable = True

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        readers = [self._reader(path) for path in paths]
        self.schema = unify([reader.schema for reader in readers])
        self.history = History()
        for reader in readers:
            self.history = self.history.merge(reader.history)
        known = [reader.rows for reader in readers if reader.rows is not None]
        self.rows = sum(known) if len(known) == len(readers) else None

    def _reader(self, path: str) -> IpcReader:
        file: Any = files.open_read(path)
        if not hasattr(file, "peek"):
            file = io.BufferedReader(file)
        return IpcReader(file, path)

    def batches(self, select: Select) -> Iterator[Batch]:
        base = 0
        for path in self.paths:
            highest = -1
            for batch in self._reader(path).batches():
                highest = max(highest, batch.shard.index)
                count = batch.shard.count if len(self.paths) == 1 else None
                shard = replace(batch.shard, index=base + batch.shard.index, count=count)
                yield replace(batch, rows=align(batch.rows, self.schema), shard=shard)
            base += highest + 1


class TarPipeSource:
    """A tar of ours through a pipe; images are inline bytes, for there is no file to refer to."""

    shards = None
    replayable = False

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.content = xxhash.xxh3_128()
        self.window = Window(file, self.content.update)
        self.reader = TarReader(self.window.read, name, self.window.forget)
        note = self.reader.read_note()
        if note is None:
            raise DamagedError(f"{name}: a tar of edittools whose header is damaged")
        self.schema, self.history = note.schema, note.history
        self.rows: int | None = None

    def _image(self, member: Member, facts: dict[str, Any]) -> dict[str, Any]:
        data = self.window.read(member.offset, member.size)
        known = {name: facts.get(name) for name in ("width", "height", "format")}
        return reference(bytes=data, **known)

    def batches(self, select: Select) -> Iterator[Batch]:
        for rows in unpack_rows(self.reader, self.schema, self._image, 64):
            yield Batch(rows, Shard(0, 1, ""), False, rows.num_rows)
        yield Batch(empty_batch(self.schema), Shard(0, 1, digest("tar", self.content.hexdigest())), last=True)


class Inlined:
    """A source whose images are made inline bytes, because what they refer to is gone when this process is."""

    shards = None
    replayable = False

    def __init__(self, source: Source, fetcher: Fetcher) -> None:
        self.source, self.fetcher = source, fetcher
        self.schema, self.history, self.rows = source.schema, source.history, source.rows

    def batches(self, select: Select) -> Iterator[Batch]:
        for batch in self.source.batches(select):
            for start in range(0, max(batch.rows.num_rows, 1), _INLINE_ROWS):
                piece = batch.slice(start, min(start + _INLINE_ROWS, batch.rows.num_rows))
                rows, rejects = inline_rows(piece.rows, self.fetcher, "read")
                yield piece.replace(rows, rejects)


class Limited:
    """The first rows of a pipe."""

    shards = None
    replayable = False

    def __init__(self, source: Source, limit: int) -> None:
        self.source, self.limit = source, limit
        self.schema, self.history = source.schema, source.history
        self.rows = min(limit, source.rows) if source.rows is not None else limit

    def batches(self, select: Select) -> Iterator[Batch]:
        left = self.limit
        for batch in self.source.batches(select):
            shard = replace(batch.shard, count=None)  # of the shards that the stream speaks of some do not come
            if batch.rows.num_rows >= left:
                yield Batch(batch.rows.slice(0, left), shard, True, left, batch.rejects)
                return
            left -= batch.rows.num_rows
            yield replace(batch, shard=shard)


class Regrouped:
    """A pipe cut into shards anew, by rows or by bytes of images, as it goes."""

    shards = None
    replayable = False

    def __init__(self, source: Source, rows: int | None, size: int | None) -> None:
        self.source, self.per_shard, self.size = source, rows, size
        self.schema, self.history, self.rows = source.schema, source.history, source.rows

    def batches(self, select: Select) -> Iterator[Batch]:
        index, filled = 0, 0
        limit = self.size if self.size is not None else self.per_shard
        assert limit is not None
        parts = _Parts()
        for batch in self.source.batches(select):
            count = batch.rows.num_rows
            parts.begin(batch)
            weights = image_bytes(batch.rows).tolist() if self.size is not None else [1] * count
            start, seen, rejects = 0, batch.seen, batch.rejects
            for k, weight in enumerate(weights):
                if filled and filled + weight > limit:
                    parts.take(k - start)
                    shard = Shard(index, None, parts.digest())
                    yield Batch(batch.rows.slice(start, k - start), shard, True, seen, rejects)
                    index, filled, start, seen, rejects = index + 1, 0, k, 0, []
                filled += weight
            parts.take(count - start)
            yield Batch(batch.rows.slice(start), Shard(index, None, ""), False, seen, rejects)
        yield Batch(empty_batch(self.schema), Shard(index, None, parts.digest()), last=True)


class _Parts:
    """Provenance of a re-cut shard: a list of (digest of the source shard, first row, row after the last)."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, int]] = []
        self.shard, self.position = -1, 0

    def begin(self, batch: Batch) -> None:
        """The rows that are taken next are those of this batch."""
        if batch.shard.index != self.shard:
            self.shard, self.position = batch.shard.index, 0
        self.held = batch.shard.digest
        if not self.held:  # of what is known only when it has been read whole
            self.held = xxhash.xxh3_128(batch.rows.serialize()).hexdigest()

    def take(self, count: int) -> None:
        held, first = self.held, self.position
        if self.parts and self.parts[-1][0] == held and self.parts[-1][2] == first:  # batches end anywhere
            first = self.parts.pop()[1]
        self.position += count
        self.parts.append((held, first, self.position))

    def digest(self) -> str:
        """Digest of the parts so far; the next ones are another shard's."""
        made = digest("regrouped", *(f"{held} {first} {stop}" for held, first, stop in self.parts if stop > first))
        self.parts = []
        return made


class _Prefixed(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, file: io.BufferedIOBase) -> None:
        self.head, self.file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.head:
            count = min(len(buffer), len(self.head))
            buffer[:count] = self.head[:count]
            self.head = self.head[count:]
            return count
        # What is there now, not a full buffer: a slow producer's rows must not wait for a megabyte of them.
        return self.file.readinto1(buffer)


class SpooledArchive(Inlined):
    """A tar that others wrote, or a compressed one, through a pipe: in a file while this process reads it.

    Its columns are known only after reading all of it. Whoever kills the process leaves the file in TMPDIR.
    """

    def __init__(self, file: BinaryIO, name: str, mapping: Mapping | None) -> None:
        state = xxhash.xxh3_64()
        self.spool = tempfile.NamedTemporaryFile(prefix="edittools-", suffix=".tar")
        while piece := file.read(1 << 20):
            self.spool.write(piece)
            state.update(piece)
        self.spool.flush()
        stamp = state.intdigest() >> 4
        os.utime(self.spool.name, ns=(stamp, stamp))  # the file's tag, so that equal archives are one input
        super().__init__(FileSource([reader_for_file(self.spool.name, name, mapping)]), Fetcher())


def _spooled_parquet(file: BinaryIO, name: str, mapping: Mapping | None) -> Source:
    """A Parquet file through a pipe. It keeps its index at the end, so it has to be a file while it is read."""
    state = xxhash.xxh3_128()
    with tempfile.NamedTemporaryFile(prefix="edittools-", suffix=".parquet") as spool:
        while piece := file.read(1 << 20):
            spool.write(piece)
            state.update(piece)
        spool.flush()
        # The file goes at once, whatever happens later; what is open stays readable.
        reader = ParquetReader(spool.name, label=name, content=state.hexdigest(), mapping=mapping)
        rowgroups.shared().adopt(spool.name)
    return Inlined(FileSource([reader]), Fetcher())


def stdin_has_data() -> bool:
    """Whether standard input is a pipe, a socket or a regular file (not a terminal, not /dev/null)."""
    import stat

    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def open_pipe(file: io.BufferedIOBase, name: str = "standard input", mapping: Mapping | None = None) -> Source:
    """The source that comes through an open file, known by its first bytes."""
    head = b""
    while len(head) < 1024:
        piece = file.read(1024 - len(head))
        if not piece:
            break
        head += piece
    if not head:
        raise IncompleteError(f"{name}: empty: the command before this one wrote nothing")
    whole = io.BufferedReader(_Prefixed(head, file), buffer_size=1 << 20)
    if head[:4] == b"\xff\xff\xff\xff":
        return IpcSource(IpcReader(whole, name))
    if head[257:262] == b"ustar" and _OURS in head:
        return TarPipeSource(whole, name)
    if head[257:262] == b"ustar" or archive.is_packed(head):
        return SpooledArchive(whole, name, mapping)
    if head[:4] == b"PAR1":
        return _spooled_parquet(whole, name, mapping)
    if records.reader_for(name, head) is not None:
        return FileSource([LinesReader(name, whole.read(), mapping=mapping)])
    if len(head) < 8 and b"\xff\xff\xff\xff".startswith(head[:4]):
        raise IncompleteError(f"{name}: the stream was cut off in its first bytes")
    raise EditError(f"{name}: not an Arrow stream, a tar, a Parquet file or JSON")
