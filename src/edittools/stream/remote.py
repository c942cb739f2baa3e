"""Objects of stores read at offsets: every byte comes once, in blocks that are kept on disk while there is room.

A tar is looked through for its names and read again for its images, which one thread decodes and another writes
somewhat later; a Parquet file is read from its end. So blocks are shared by all readers of an object in the process,
and fetched ahead: after a jump one, then, as long as the reading goes on (over what it passes over, too, if that is
little), twice as many each time.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from edittools.stream.process import PerProcess

BLOCK = 128 << 10
_MOST_AHEAD = 64  # blocks in one request: 8 MB
_MOST_PASSED = 16  # blocks that reading passes over, as a tar's images when only its names are read
_MOST_KEPT = 16 << 30  # bytes on disk, and never more than half of what is free there
_LEAST_KEPT = 4 * _MOST_AHEAD  # blocks
_MOST_RUNS = 1024  # places at which reading may go on that are remembered

Key = tuple[str, str]  # address and etag


class _Blocks:
    """The blocks of all objects, in one file without a name; those that were not used for longest make room."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="edittools-", buffering=0)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self.most = max(_LEAST_KEPT, min(_MOST_KEPT, free // 2) // BLOCK)
        self.places: OrderedDict[tuple[Key, int], tuple[int, int]] = OrderedDict()  # block in the file, bytes in it
        self.coming: set[tuple[Key, int]] = set()
        self.runs: OrderedDict[tuple[Key, int], int] = OrderedDict()  # which block comes next: how many came before it
        self.changed = threading.Condition()

    def read(self, key: Key, number: int, wanted: int, count: int, fetch: Callable[[int, int], list[bytes]]) -> bytes:
        """Block `number` of the `count` blocks of an object, of which `wanted` will be asked for one after the other.

        `fetch(first, blocks)` gets blocks from the store. One thread fetches a block, others wait for it.
        """
        with self.changed:
            while (key, number) not in self.places:
                if (key, number) not in self.coming:
                    break
                self.changed.wait()
            if (key, number) in self.places:
                return self._kept(key, number)
            first, ahead = self._going_on(key, number)
            last = min(count, number + max(1, wanted, min(ahead, _MOST_AHEAD)), first + _MOST_AHEAD)
            numbers = [*range(first, number + 1)]
            while numbers[-1] + 1 < last and not self._known(key, numbers[-1] + 1):
                numbers.append(numbers[-1] + 1)
            self.coming.update((key, k) for k in numbers)
        try:
            blocks = fetch(first, len(numbers))
            with self.changed:
                for k, block in zip(numbers, blocks):
                    self._keep(key, k, block)
                self.runs[key, numbers[-1] + 1] = len(numbers)
                while len(self.runs) > _MOST_RUNS:
                    self.runs.popitem(last=False)
            return blocks[number - first]
        finally:
            with self.changed:
                self.coming.difference_update((key, k) for k in numbers)
                self.changed.notify_all()

    def _going_on(self, key: Key, number: int) -> tuple[int, int]:
        """Where to begin for a block, and how many blocks ahead of it to fetch: from the end of a run shortly before it
        twice as many as that had; else from itself, and none."""
        first = number
        while number - first <= _MOST_PASSED:
            run = self.runs.pop((key, first), None)
            if run is not None:
                return first, 2 * run
            if first == 0 or self._known(key, first - 1):
                break
            first -= 1
        return number, 0

    def _known(self, key: Key, number: int) -> bool:
        return (key, number) in self.places or (key, number) in self.coming

    def _kept(self, key: Key, number: int) -> bytes:
        place, length = self.places[key, number]
        self.places.move_to_end((key, number))
        return os.pread(self.file.fileno(), length, place * BLOCK)

    def _keep(self, key: Key, number: int, block: bytes) -> None:
        place = len(self.places)
        if place >= self.most:
            if not self.places:
                return
            _, (place, _) = self.places.popitem(last=False)
        try:
            written = os.pwrite(self.file.fileno(), block, place * BLOCK)
        except OSError:
            written = 0
        if written < len(block):  # the disk is full by now: what is there is what there can be
            self.most = len(self.places)
            return
        self.places[key, number] = place, len(block)


shared = PerProcess(_Blocks)


class Object:
    """One object of a store, read at offsets from any thread."""

    def __init__(self, system: Any, inner: str, address: str, facts: dict[str, Any], tag: str) -> None:
        """`facts` is what the store says of it; `tag` its etag. Raises OSError where it does not say a size."""
        if facts.get("size") is None:
            raise OSError(f"{address}: the server does not say how large it is")
        self.system, self.inner, self.size = system, inner, int(facts["size"])
        self.key = address, tag

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at `offset`; fewer at the end."""
        stop = min(offset + length, self.size)
        if stop <= offset:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        count = -(-self.size // BLOCK)
        blocks = shared()
        pieces = [blocks.read(self.key, k, last + 1 - k, count, self._fetch) for k in range(first, last + 1)]
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return data[offset - first * BLOCK : stop - first * BLOCK]

    def _fetch(self, first: int, count: int) -> list[bytes]:
        start, stop = first * BLOCK, min((first + count) * BLOCK, self.size)
        if getattr(self.system, "async_impl", False):
            data = self.system.cat_file(self.inner, start=start, end=stop)
        else:  # fsspec's own `cat_file` opens the file with a buffer, which would fetch more than is asked for
            with self.system.open(self.inner, "rb", cache_type="none") as file:
                file.seek(start)
                data = file.read(stop - start)
        if len(data) == self.size > stop - start:  # a server that does not know ranges sends everything
            data = data[start:stop]
        if len(data) != stop - start:
            raise OSError(f"{self.key[0]}: {len(data)} of {stop - start} bytes came from {start} on")
        return [data[k : k + BLOCK] for k in range(0, len(data), BLOCK)]


class ObjectFile(io.RawIOBase):
    """An object as a seekable file."""

    def __init__(self, source: Object) -> None:
        self.source, self.position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.source.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.source.read(self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
