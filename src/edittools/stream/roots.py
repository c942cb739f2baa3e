"""Where the images lie that the rows of a table name: in folders, and in archives that need not be unpacked."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from edittools.errors import DamagedError, IncompleteError
from edittools.stream import files
from edittools.stream.input_reader import beside, full_path, is_inline, reference
from edittools.stream.joined import Joined
from edittools.stream.packed import name_key
from edittools.stream.process import PerProcess
from edittools.stream.readers import archive
from edittools.stream.tar import Member, TarReader

_SEVERAL = "several files in the archives have this name"
_MOST_FOLDERS = 64  # at the top of the archives, under which a path is looked for too
Read = Callable[[int, int], bytes]


class Roots:
    """Finds images by the paths that rows have for them.

    A path is looked for as it stands: among the files of the archives, without their leading `./`, then in the folders
    and beside the table. Where an archive keeps everything in a folder of its own that the paths leave out, or
    the paths begin with folders that the archive leaves out, it is found too. What two archives have under one name is
    no image, for nobody knows which is meant.
    """

    def __init__(
        self,
        folders: Sequence[str] = (),
        archives: Sequence[list[str]] = (),
        last: Sequence[str] = (),
        addresses: Callable[[str], dict[str, Any]] | None = None,
    ) -> None:
        """`archives` are tars, compressed tars and zip archives, each the list of its parts. `folders` are asked before
        the one that the table is in, `last` are asked after it. `addresses` finds what addresses of the web name."""
        self.addresses = addresses
        self.folders, self.archives, self.last = list(folders), list(archives), list(last)
        self._keys = np.zeros(0, np.uint64)
        self._rows = np.zeros((0, 3), np.int64)  # archive, offset, size; sorted by the keys
        self._tops: list[str] = []
        self._read = False
        self._lost: dict[str, str] = {}  # files of archives that did not come out, and why

    def beside(self, folders: Sequence[str], archives: Sequence[list[str]], last: Sequence[str] = ()) -> Roots:
        """These, and further places behind them."""
        return Roots(
            [*self.folders, *folders], [*self.archives, *archives], [*self.last, *last], addresses=self.addresses
        )

    def find(self, base: str, path: str) -> dict[str, Any]:
        """The image that a path names; why there is none is in its etag."""
        if self.addresses is not None and path.startswith(("http://", "https://")):
            return self.addresses(path)
        if is_inline(path) or files.is_url(path):
            return _known(beside(base, path))
        if (found := self._in_archives(path)) is not None:
            return found
        for folder in (*self.folders, base, *self.last):
            full = full_path(folder, path)
            with contextlib.suppress(OSError, ValueError):
                size, tag = files.facts(full)
                return reference(file=full, offset=0, length=size, etag=tag)
        return _known(beside(base, path))

    def names(self) -> Iterator[str]:
        """The paths of the files in the archives. Raises DamagedError and IncompleteError."""
        for opened in self._opened:
            yield from (posixpath.normpath(member.name) for member in opened.members())
            yield from (posixpath.normpath(name) for name, _ in opened.damaged)

    def _in_archives(self, path: str) -> dict[str, Any] | None:
        if not self.archives:
            return None
        self._index()
        clean = posixpath.normpath(path.replace("\\", "/"))
        found = self._named(clean)
        if found is None:
            under = [one for top in self._tops if (one := self._named(f"{top}/{clean}")) is not None]
            found = under[0] if len(under) == 1 else _SEVERAL if under else None
        if found is None and clean in self._lost:
            found = f"damaged in the archive: {self._lost[clean]}"
        while found is None and clean.count("/") > 1:  # a bare name would mean too many things
            clean = clean.partition("/")[2]
            found = self._named(clean)
        if found is None:
            return None
        if isinstance(found, str):
            return reference(file=path, etag=f"{files.NOTHING}{found}")
        number, offset, size = found
        return self._opened[number].refer(offset, size)

    def _named(self, name: str) -> tuple[int, int, int] | str | None:
        """Which archive holds a file, where, and its size; or why it cannot be said."""
        key = np.uint64(name_key(name))
        first = int(np.searchsorted(self._keys, key))
        if first == len(self._keys) or self._keys[first] != key:
            return None
        if first + 1 < len(self._keys) and self._keys[first + 1] == key:
            return _SEVERAL
        number, offset, size = (int(value) for value in self._rows[first])
        return number, offset, size

    def _index(self) -> None:
        """Look through all archives, once."""
        if self._read:
            return
        self._read = True
        keys, rows, tops = array("Q"), array("q"), set[str]()
        for number, opened in enumerate(self._opened):
            self._lost |= {posixpath.normpath(name): why for name, why in opened.damaged}
            for member in _readable(opened):
                name = posixpath.normpath(member.name)
                keys.append(name_key(name))
                rows.extend((number, member.offset, member.size))
                if len(tops) <= _MOST_FOLDERS and "/" in name:
                    tops.add(name.partition("/")[0])
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.frombuffer(keys, np.uint64)[order] if keys else self._keys
        self._rows = np.frombuffer(rows, np.int64).reshape(-1, 3)[order] if keys else self._rows
        self._tops = sorted(tops) if len(tops) <= _MOST_FOLDERS else []

    @cached_property
    def _opened(self) -> list[_Archive]:
        return [_Archive(parts) for parts in self.archives]


class _Archive:
    """An archive, in its parts: what is in it, and how one of its files is referred to. None of its files stays open:
    there may be thousands of archives."""

    def __init__(self, parts: list[str]) -> None:
        """Raises DamagedError, EditError."""
        self.parts = parts
        self.damaged: list[tuple[str, str]] = []  # files that did not come out, with the reasons
        with contextlib.closing(Joined(parts)) as whole:
            self.whole = whole  # which knows the places of ranges when it is closed, too
            self.plain = whole.at(0, 512)[257:262] == b"ustar"
            if not self.plain:
                self.start, self.size, self.damaged = _unpacked().add(whole, parts[0])

    def members(self) -> Iterator[Member]:
        """Raises DamagedError and IncompleteError."""
        with self._reading() as read:
            yield from TarReader(read, self.parts[0]).members()

    def refer(self, offset: int, size: int) -> dict[str, Any]:
        place = self.whole.place(offset, size) if self.plain else None
        if place is not None:
            return reference(file=place[0], offset=place[1], length=size, etag=place[2])
        with self._reading() as read:  # it is packed, or cut in two
            return reference(bytes=read(offset, size), etag=self.whole.tags[0])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Read]:
        if self.plain:
            with contextlib.closing(Joined(self.parts)) as whole:
                yield whole.at
        else:
            yield lambda offset, size: _unpacked().read(self.start + offset, min(size, self.size - offset))


class _Unpacked:
    """The plain tars that packed archives are, one behind the other in a file without a name."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="edittools-")
        self.lock = threading.Lock()

    def add(self, packed: Joined, path: str) -> tuple[int, int, list[tuple[str, str]]]:
        """Where an archive's tar begins, its size, and the files that did not come out. Raises DamagedError."""
        with self.lock:
            start = self.file.seek(0, io.SEEK_END)
            damaged = archive.unpack(io.BufferedReader(packed), self.file, path)
            return start, self.file.seek(0, io.SEEK_END) - start, damaged

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file.fileno(), max(0, size), offset)


_unpacked = PerProcess(_Unpacked)


def _known(found: dict[str, Any] | None) -> dict[str, Any]:
    assert found is not None  # of a path that is not empty
    return found


def _readable(archive_: _Archive) -> Iterator[Member]:
    """The files of an archive; of one that is damaged or cut off, those before, for the rows say what they lack."""
    with contextlib.suppress(DamagedError, IncompleteError):
        yield from archive_.members()
