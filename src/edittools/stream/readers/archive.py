"""Tars that are compressed, and zip archives: unpacked into a plain tar that only this process sees.

Nobody can refer to bytes inside them, so that their images come as bytes. Room for them is needed in TMPDIR, one
archive at a time.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO, Any, BinaryIO

import pyarrow as pa

from edittools.errors import DamagedError, EditError, RowError, describe
from edittools.stream import files, joined, text
from edittools.stream.input_reader import reference, unchanged
from edittools.stream.mapping import Mapping
from edittools.stream.process import PerProcess
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.samples import Read, Sample, Samples
from edittools.stream.tar import BLOCK, Member

ENDINGS = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")
_ZIP = b"PK\3\4"
_MOST_BYTES = 1 << 30  # of one image


def _zstd(file: IO[bytes]) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_PLAIN: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)


def compression(head: bytes) -> Callable[[IO[bytes]], Any] | None:
    """What opens a compressed file, by its first 8 bytes; None of what is not compressed so."""
    return next((opens for start, opens in _PLAIN.items() if head.startswith(start)), None)


def claim(path: str, head: bytes) -> int:
    if head.startswith(_ZIP):
        return 2
    opens = compression(head)
    if opens is None:
        return 0
    with files.open_read(path) as file, contextlib.suppress(*DAMAGE):
        return 3 if opens(file).read(BLOCK)[257:262] == b"ustar" else 0
    return 0


def is_packed(head: bytes) -> bool:
    """Whether a file begins as a zip archive does, or as what is compressed, may be a tar."""
    return head.startswith(_ZIP) or compression(head) is not None


def open_file(path: str, label: str | None, mapping: Mapping) -> ArchiveReader:
    return ArchiveReader(path, label, mapping)


class ArchiveReader(TarFileReader):
    """A compressed tar, or a zip archive read as one."""

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Read]:
        unpacked = _unpacked().get(self.name, self.tag)
        self._bytes: Read = unpacked.read
        yield unpacked.read

    @cached_property
    def index(self) -> Samples:
        found = super().index
        for name, why in _unpacked().get(self.name, self.tag).damaged:
            found.add_whole(Sample(name, (), "damaged", why))
        return found

    def image(self, member: Member, facts: dict[str, Any]) -> dict[str, Any]:
        if member.size > _MOST_BYTES:
            raise RowError("file too large", f"{member.name}: {member.size} bytes")
        known = {name: facts.get(name) for name in ("width", "height", "format")}
        return reference(bytes=self._bytes(member.offset, member.size), **known)


def unpack(packed: BinaryIO, file: IO[bytes], path: str) -> list[tuple[str, str]]:
    """Write the plain tar that a compressed tar or a zip archive is into a file; returns the members that did not come
    out, with the reasons. Raises DamagedError, and EditError where there is no room."""
    damaged: list[tuple[str, str]] = []
    head = packed.read(8)
    packed.seek(0)
    try:
        opens = compression(head)
        if head.startswith(_ZIP):
            damaged = _from_zip(packed, file)
        elif opens is not None:
            shutil.copyfileobj(opens(packed), file, 1 << 20)
        else:
            raise DamagedError(f"{path}: neither a tar, a compressed tar nor a zip archive")
    except DAMAGE as error:
        if getattr(error, "errno", None) is not None:
            raise EditError(f"{path}: cannot be unpacked: {describe(error)}", "set TMPDIR to a larger disk") from error
        raise DamagedError(f"{path}: damaged: {describe(error)}") from error
    file.flush()
    return damaged


def member_name(member: zipfile.ZipInfo) -> str:
    """The name of a zip's member, which is not always said to be UTF-8."""
    known = member.flag_bits & 0x800
    return member.filename if known else text.decode(member.filename.encode("cp437", "replace"))


def _from_zip(packed: BinaryIO, file: IO[bytes]) -> list[tuple[str, str]]:
    damaged: list[tuple[str, str]] = []
    with zipfile.ZipFile(packed) as archive, tarfile.open(fileobj=file, mode="w") as tar:
        for found in archive.infolist():
            if found.is_dir():
                continue
            name = member_name(found)
            try:
                if found.file_size > _MOST_BYTES:
                    raise ValueError(f"{found.file_size} bytes")
                data = archive.read(found)
            except (*DAMAGE, RuntimeError, ValueError) as error:  # with a password, or of an unknown method
                damaged.append((name, describe(error)))
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return damaged


class _Unpacked:
    """A plain tar in a file without a name, and the members that did not come out, with the reasons."""

    def __init__(self, path: str) -> None:
        self.file = tempfile.TemporaryFile(prefix="edittools-")
        with joined.opened(path) as packed:
            self.damaged = unpack(packed, self.file, path)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.file.fileno(), length, offset)


class _Latest:
    """The archive that was unpacked last; shards are mostly read in order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key = "", ""
        self.held: _Unpacked | None = None

    def get(self, path: str, tag: str) -> _Unpacked:
        with self.lock:
            if self.held is None or self.key != (path, tag):
                unchanged(path, tag)
                self.held = None  # before the next: there may be room for one
                self.held, self.key = _Unpacked(path), (path, tag)
            return self.held


_unpacked = PerProcess(_Latest)
