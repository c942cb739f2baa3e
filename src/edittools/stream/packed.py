"""What is kept of every row of an input while it is read: names in one buffer, or on disk where they are many."""

from __future__ import annotations

import bisect
import contextlib
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable

import numpy as np
import xxhash

from edittools.stream.process import PerProcess

_AT_ONCE = 1 << 16  # names that are looked up
_IN_MEMORY = 1 << 20  # bytes of one `Packed`; more go to disk


class _Spill:
    """A file without a name that all of a process append to: one open file, however many inputs there are."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="edittools-", buffering=0)
        self.end = 0

    def append(self, data: bytes | bytearray) -> int:
        """Where in the file the bytes are from now on."""
        at = place = self.end
        view = memoryview(data)
        while view:
            written = os.pwrite(self.file.fileno(), view, place)
            view, place = view[written:], place + written
        self.end = place
        return at

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self.file.fileno(), length, at)


class _Latest:
    """The spill of a process while somebody has something in it: with the last of them its room on disk goes."""

    def __init__(self) -> None:
        self.held: weakref.ref[_Spill] | None = None

    def get(self) -> _Spill:
        found = self.held() if self.held is not None else None
        if found is None:
            found = _Spill()
            self.held = weakref.ref(found)
        return found


_latest = PerProcess(_Latest)


class Packed:
    """Pieces of bytes by number: 8 bytes of memory each, and their own bytes on disk beyond the first megabyte."""

    def __init__(self) -> None:
        self._starts = array("Q", [0])
        self._held = bytearray()  # the bytes from the end of the last block on
        self._blocks: list[tuple[int, int, _Spill]] = []  # on disk: where each ends, counted from the first byte; where
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, piece: bytes) -> None:
        self._held += piece
        self._starts.append(self._starts[-1] + len(piece))
        if len(self._held) >= _IN_MEMORY:
            with contextlib.suppress(OSError):  # the disk is full: they stay in memory
                self._put_by(_latest().get())

    def _put_by(self, spill: _Spill) -> None:
        self._blocks.append((self._starts[-1] - len(self._held), spill.append(self._held), spill))
        self._ends.append(self._starts[-1])
        self._held = bytearray()

    def __getitem__(self, number: int) -> bytes:
        start, stop = self._starts[number], self._starts[number + 1]
        block = bisect.bisect_right(self._ends, start)
        if block == len(self._ends):
            first = self._ends[-1] if self._ends else 0
            return bytes(self._held[start - first : stop - first])
        first, at, spill = self._blocks[block]
        return spill.read(at + start - first, stop - start)


def name_key(name: str) -> int:
    """The 64 bits by which a `NameSet` knows a name."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


class NameSet:
    """Many names, of which it is only asked whether they are among them: 64 bits each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._added = array("Q", map(name_key, names))
        self._sorted = np.zeros(0, np.uint64)

    def add(self, name: str) -> None:
        self._added.append(name_key(name))

    def hashes(self) -> np.ndarray:
        """Sorted, each once."""
        if self._added:
            keys = np.array(self._added, np.uint64)
            self._added = array("Q")  # before there are more copies: there may be very many
            keys.sort()
            self.update(keys)
        return self._sorted

    def __bool__(self) -> bool:
        return len(self.hashes()) > 0

    def __contains__(self, name: str) -> bool:
        return bool(self.among(np.array([name_key(name)], np.uint64))[0])

    def among(self, keys: np.ndarray) -> np.ndarray:
        """Which of many names, by their keys, are in it."""
        held = self.hashes()
        found = np.zeros(len(keys), np.bool_)
        for start in range(0, len(keys) if len(held) else 0, _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            found[start : start + _AT_ONCE] = held[np.minimum(np.searchsorted(held, some), len(held) - 1)] == some
        return found

    def update(self, keys: np.ndarray) -> None:
        """Add names by their keys, which are sorted."""
        if len(self._sorted):
            keys = np.union1d(self._sorted, keys)
        elif (keys[1:] == keys[:-1]).any():
            keys = np.unique(keys)
        self._sorted = keys
