"""From a reference to the bytes it names, with a check that the file is still the one that was meant."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import DamagedError, EditError, RowError
from edittools.stream import files, rowgroups
from edittools.stream.batch import binary_views

_OPEN_FILES = 16  # and as many that another thread may still read: some systems allow a process 256 in all
# What has nothing to do with the file itself: the run cannot go on.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_MAX_BYTES = 1 << 30  # of one encoded image
_HANDED = 128 << 20  # bytes that wait between a stage and the sink
_BEHIND = 4096  # images that a sink may be behind a stage

Buffer = bytes | memoryview


class Handed:
    """Loose files that a stage has read, until the sink wants them: each is opened once.

    The sink comes in the order of the rows, a little behind. What does not fit is read again, and so is what a second
    row of the same file wants.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str | None], tuple[int, bytes]] = OrderedDict()  # with a running number
        self._size = self._given = self._taken = 0
        self._lock = threading.Lock()

    def put(self, path: str, etag: str | None, data: bytes) -> None:
        with self._lock:
            self._given += 1
            while self._held and self._size + len(data) > _HANDED:
                key = next(iter(self._held))
                if self._held[key][0] > self._taken - _BEHIND:
                    return
                self._size -= len(self._held.pop(key)[1])  # its row has fallen out
            if (path, etag) not in self._held:
                self._held[path, etag] = self._given, data
                self._size += len(data)

    def take(self, path: str, etag: str | None) -> bytes | None:
        with self._lock:
            number, data = self._held.pop((path, etag), (0, None))
            self._taken = max(self._taken, number)
            self._size -= len(data) if data is not None else 0
            return data


class Fetcher:
    """Reads images by reference. Safe to share between threads; keeps a few files open."""

    def __init__(self) -> None:
        self.gives: Handed | None = None  # to whom loose files go that have been read whole
        self.takes: Handed | None = None  # whose loose files need not be read
        self._readers: OrderedDict[str, files.RangeReader] = OrderedDict()
        self._retired: list[files.RangeReader] = []
        self._lock = threading.Lock()

    def get(self, reference: dict[str, Any], most: int | None = None) -> Buffer:
        """The bytes of one image, or at least the first `most` of them.

        Raises RowError where the image itself is the trouble (a loose file that cannot be read, or is another one
        by now), and EditError where the pipeline cannot go on (a shard that changed or cannot be opened).
        """
        inline: Buffer | None = reference["bytes"]
        if inline is not None:
            return inline
        path = reference["file"]
        if path is None:
            raise RowError("no picture")
        if (reference["etag"] or "").startswith(files.NOTHING):
            raise RowError(reference["etag"][len(files.NOTHING) :], path)
        if reference["row"] is not None:
            return self._from_parquet(path, reference["column"], reference["row"], reference["etag"])
        offset, length = reference["offset"] or 0, reference["length"] or 0
        if not 0 <= length <= _MAX_BYTES or offset < 0:
            raise RowError("file too large", length)
        if most is not None:
            length = min(length, most)
        if offset == 0:
            known = self.takes.take(path, reference["etag"]) if self.takes is not None else None
            if known is not None:
                return known if len(known) == length else known[:length]
            data = _loose(path, length, reference["etag"])
            if self.gives is not None and length == (reference["length"] or 0):
                self.gives.put(path, reference["etag"], data)
            return data
        reader = self._reader(path)
        if reference["etag"] is not None and reader.etag() != reference["etag"]:
            raise EditError(
                f"{path}: the file changed while the pipeline was running",
                hint="run the whole pipeline again when nothing writes to it",
            )
        data = reader.read(offset, length)
        if len(data) != length:
            raise EditError(f"{path}: {len(data)} of {length} bytes at {offset}: the file is too short")
        return data

    def _reader(self, path: str) -> files.RangeReader:
        with self._lock:
            reader = self._readers.get(path)
            if reader is not None:
                self._readers.move_to_end(path)
                return reader
            try:
                reader = files.RangeReader(path)
            except (OSError, ValueError) as error:
                raise EditError(
                    f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}",
                    hint="the stream refers to files by path; where they cannot be reached, send the bytes "
                    "along with --inline",
                ) from error
            self._readers[path] = reader
            if len(self._readers) > _OPEN_FILES:
                # Another thread may be reading it: it is closed when the next one is retired.
                _, old = self._readers.popitem(last=False)
                self._retired.append(old)
                if len(self._retired) > _OPEN_FILES:
                    self._retired.pop(0).close()
            return reader

    def _from_parquet(self, path: str, column: str, row: int, etag: str | None) -> bytes:
        try:
            value = rowgroups.shared().value(path, etag, column, row)
        except DamagedError as error:
            if files.is_url(path):  # it may be the store that failed
                raise
            raise RowError("damaged file", str(error)) from None
        if value is None:
            raise RowError("no picture")
        return value


def _loose(path: str, length: int, etag: str | None) -> bytes:
    """The first bytes of a file that is one image: opened for it alone, for it is read once."""
    try:
        with contextlib.closing(files.RangeReader(path)) as reader:
            if etag is not None and reader.etag() != etag:
                raise RowError("file changed while it was read", path)
            data = reader.read(0, length)
    except FileNotFoundError:
        raise RowError("missing file", path) from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _OURS:
            raise
        raise RowError("cannot read", f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) != length:
        raise RowError("file changed while it was read", path)
    return data


def image_references(values: pa.StructArray) -> Iterator[dict[str, Any] | None]:
    """The images of one flat array as dictionaries, inline bytes as views that copy nothing."""
    children = dict(zip([field.name for field in values.type], values.flatten()))
    views: list[memoryview | None] | None = None
    if children["bytes"].null_count < len(values):
        views = binary_views(children["bytes"])
    names = [name for name in children if name != "bytes"]
    columns = [children[name].to_pylist() for name in names]
    valid = values.is_valid().to_pylist()
    for k, row in enumerate(zip(*columns)):
        if not valid[k]:
            yield None
            continue
        reference = dict(zip(names, row))
        reference["bytes"] = views[k] if views is not None else None
        yield reference


def kept_reference(reference: dict[str, Any] | None) -> dict[str, Any] | None:
    """Copy inline bytes, so that the reference stays valid after its batch is freed."""
    if reference is not None and isinstance(reference["bytes"], memoryview):
        return {**reference, "bytes": bytes(reference["bytes"])}
    return reference
