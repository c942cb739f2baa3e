"""A listing of a folder: every file below it, kept in few bytes."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Container, Iterator, Sequence
from typing import overload

import numpy as np

from edittools.stream import files
from edittools.stream.input_reader import IMAGE_ENDINGS, VIDEO_ENDINGS
from edittools.stream.packed import Packed, name_key

_FACTS = struct.Struct("<Qq")  # of a file: size, and mtime in ns
_OTHER = -(1 << 63)  # in place of the mtime: the etag stands behind it


class LooseFile:
    """One file of a crawl: its path inside it, its full path, size and etag."""

    __slots__ = ("etag", "inside", "readable", "root", "size")

    def __init__(self, inside: str, root: str, size: int, tag: str) -> None:
        """`root` is what stands before the path; of a single file its own path, without a slash."""
        self.inside, self.root, self.size, self.etag = inside, root, size, tag
        self.readable = not tag.startswith(files.NOTHING)

    @property
    def path(self) -> str:
        return self.root + self.inside if self.root.endswith("/") else self.root

    def ending(self) -> str:
        return ending(self.inside)

    def is_image(self) -> bool:
        """Whether its name says so. A video is one here: it has sidecars as well, and --frames makes images of it."""
        return ending(self.inside) in IMAGE_ENDINGS | VIDEO_ENDINGS


def ending(name: str) -> str:
    """The ending of a file's name, behind its last dot; without a dot, the name."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()


class Listing(Sequence[LooseFile]):
    """Every file of a crawl, sorted by their paths inside it: 8 bytes of memory each, the rest packed."""

    def __init__(self, root: str) -> None:
        """`root` is what stands before the paths; of a single file its own path."""
        self.root = _clean(root)
        self._packed = Packed()

    def add(self, inside: str, size: int, tag: str) -> None:
        """The next file. Its etag is SIZE-MTIME_NS, or any other text."""
        time = tag.partition("-")[2]
        name = inside.encode("utf-8", "surrogatepass")
        if time.isdecimal() and f"{size}-{int(time)}" == tag and int(time) < 1 << 63:
            self._packed.append(_FACTS.pack(size, int(time)) + name)
        else:
            self._packed.append(_FACTS.pack(size, _OTHER) + tag.encode() + b"\0" + name)

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, number: int) -> LooseFile: ...

    @overload
    def __getitem__(self, number: slice) -> list[LooseFile]: ...

    def __getitem__(self, number: int | slice) -> LooseFile | list[LooseFile]:
        if isinstance(number, slice):
            return [self[k] for k in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        data = self._packed[number]
        size, time = _FACTS.unpack_from(data)
        rest, tag = data[_FACTS.size :], f"{size}-{time}"
        if time == _OTHER:
            said, _, rest = rest.partition(b"\0")
            tag = said.decode()
        return LooseFile(rest.decode("utf-8", "surrogatepass"), self.root, size, tag)

    def names(self) -> Iterator[str]:
        """The paths alone, of which there may be very many."""
        for data in map(self._packed.__getitem__, range(len(self))):
            name = data[_FACTS.size :]
            if _FACTS.unpack_from(data)[1] == _OTHER:
                name = name.partition(b"\0")[2]
            yield name.decode("utf-8", "surrogatepass")

    def of_kinds(self, endings: Container[str]) -> Iterator[LooseFile]:
        """The files whose names end so."""
        return (self[number] for number, name in enumerate(self.names()) if ending(name) in endings)

    def places(self) -> np.ndarray:
        """What names each file's full path in a `NameSet`."""
        root = os.path.join(os.path.normpath(self.root), "")
        return np.fromiter((name_key(root + name) for name in self.names()), np.uint64, len(self))


def walk(root: str) -> Listing:
    """Every file below a folder, sorted by its path inside it; hidden files and folders are passed over.

    What cannot be read has an etag that says why: its row is rejected for this reason.
    """
    if files.is_url(root):
        return _walk_store(root)
    listing = Listing(os.path.join(root, ""))
    pending = [("", _names(root, ""))]
    while pending:
        folder, names = pending[-1]
        if not names:
            pending.pop()
            continue
        name = names.pop()
        inside = os.path.join(folder, name)
        if name.endswith("/"):
            try:
                pending.append((inside, _names(root, inside)))
                continue
            except OSError as error:
                inside, size, tag = inside[:-1], 0, f"{files.NOTHING}cannot read: {error.strerror}"
        else:
            size, tag = _local_facts(os.path.join(root, inside))
        if _clean(inside) != inside:
            size, tag = 0, f"{files.NOTHING}name is not UTF-8"
        listing.add(_clean(inside), size, tag)
    return listing


def _names(root: str, folder: str) -> list[str]:
    """What is in a folder, the last one first, folders with a slash: so whole paths come in their order."""
    with os.scandir(os.path.join(root, folder)) as entries:
        found = [
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not entry.name.startswith(".")
        ]
    found.sort(reverse=True)
    return found


def _walk_store(root: str) -> Listing:
    system, inner = files.filesystem(root)
    protocol = root.partition("://")[0]
    inner = inner.rstrip("/")
    listing = Listing(f"{protocol}://{inner if protocol == 'memory' else inner.lstrip('/')}/")
    found = system.find(inner, detail=True)
    for path in sorted(found):
        inside = path[len(inner) :].lstrip("/")
        if not any(part.startswith(".") for part in inside.split("/")):
            listing.add(inside, int(found[path]["size"]), files.object_tag(found[path]))
    return listing


def _local_facts(path: str) -> tuple[int, str]:
    """Size and etag of what is no folder."""
    try:
        found = os.stat(path)
    except FileNotFoundError:  # a dangling link
        return 0, files.MISSING
    except OSError as error:
        return 0, f"{files.NOTHING}cannot read: {error.strerror}"
    if stat.S_ISDIR(found.st_mode):
        return 0, f"{files.NOTHING}link to a folder"  # which may lead back here
    if not stat.S_ISREG(found.st_mode):
        return 0, f"{files.NOTHING}not a regular file"  # a pipe or a device would block
    return found.st_size, f"{found.st_size}-{found.st_mtime_ns}"


def _clean(path: str) -> str:
    """A path as valid UTF-8; file systems allow any bytes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
