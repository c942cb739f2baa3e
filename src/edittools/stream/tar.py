"""Tar members as the shards use them: our own writer of plain ustar, and a reader that trusts nothing.

Writing: mtime 0, fixed owners, so that equal rows give equal bytes; one system call per row; a running digest.
A global PAX header in front carries history and schema as a `comment`, which every tar program skips.
Reading: headers only, at known offsets; payloads are left where they are.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import xxhash

from edittools.errors import DamagedError, EditError, IncompleteError
from edittools.record import IMAGE
from edittools.stream import text
from edittools.stream.batch import map_schema
from edittools.stream.history import History

BLOCK = 512
_ZERO = bytes(BLOCK)
_MAX_HEADER = 64 << 20  # a PAX header larger than this is not one of ours and not a sane one
_MAX_OCTAL_SIZE = 8**11 - 1

Buffer = bytes | memoryview


_UNSAFE = re.compile(r"[./%\\\x00-\x1f\x7f]")


def quote_key(name: str) -> str:
    """A row's id as a member name: webdataset ends a key at the first dot, and `/` would make folders."""
    return _UNSAFE.sub(lambda sign: f"%{ord(sign[0]):02X}", name)


def unquote_key(key: str) -> str:
    return unquote(key, errors="surrogateescape") if "%" in key else key


def _header(name: bytes, size: int, kind: bytes) -> bytes:
    """One ustar header. `name` has at most 100 bytes and `size` at most 11 octal digits."""
    fields = b"".join(
        [
            name.ljust(100, b"\0"),
            b"0000644\0",  # mode
            b"0000000\0",  # owner
            b"0000000\0",  # group
            b"%011o\0" % size,
            b"00000000000\0",  # mtime
            b"        ",  # the checksum counts its own field as spaces
            kind,
            bytes(100),  # link name
            b"ustar\x0000",
            bytes(64),  # owner and group names
            b"0000000\x00" * 2,  # device
            bytes(155),  # prefix
            bytes(12),
        ]
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _pax_records(fields: dict[str, str]) -> bytes:
    """PAX records: each begins with its own length in decimal, that number included."""
    records = []
    for key, value in fields.items():
        body = f" {key}={value}\n".encode()
        length = len(body) + len(str(len(body)))
        length = len(body) + len(str(length))
        records.append(str(length).encode() + body)
    return b"".join(records)


def _pad(size: int) -> bytes:
    return bytes(-size % BLOCK)


class TarWriter:
    """Appends members to a file descriptor; `offset` and `digest` are of all bytes written so far."""

    def __init__(self, file: BinaryIO, history: History, schema: pa.Schema) -> None:
        self.descriptor = file.fileno()
        self.offset = 0
        self._state = xxhash.xxh3_128()
        note = {
            "edittools": 1,
            "history": json.loads(history.to_json()),
            "schema": base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode(),
        }
        records = _pax_records({"comment": json.dumps(note, sort_keys=True, separators=(",", ":"))})
        self._write([_header(b"pax_global_header", len(records), b"g"), records, _pad(len(records))])

    def add(self, members: Iterable[tuple[str, Buffer]]) -> list[int]:
        """Write the members of one row; returns the offset of each payload."""
        pieces: list[Buffer] = []
        offsets = []
        position = self.offset
        for name, data in members:
            encoded = name.encode("utf-8", "surrogateescape")
            size = len(data)
            extra: dict[str, str] = {}
            if len(encoded) > 100 or not name.isascii():
                extra["path"] = encoded.decode("utf-8", "replace")
            if size > _MAX_OCTAL_SIZE:
                extra["size"] = str(size)
            if extra:
                records = _pax_records(extra)
                block = _header(b"PaxHeader", len(records), b"x") + records + _pad(len(records))
                pieces.append(block)
                position += len(block)
            pieces.append(_header(encoded[:100], min(size, _MAX_OCTAL_SIZE), b"0"))
            position += BLOCK
            offsets.append(position)
            padding = _pad(size)
            pieces += [data, padding]
            position += size + len(padding)
        self._write(pieces)
        return offsets

    def end(self) -> None:
        """The end-of-archive blocks, which are the end record of a tar."""
        self._write([_ZERO + _ZERO])

    @property
    def digest(self) -> str:
        return self._state.hexdigest()

    def _write(self, pieces: list[Buffer]) -> None:
        total = 0
        for piece in pieces:
            self._state.update(piece)
            total += len(piece)
        self.offset += total
        pieces = [piece for piece in pieces if len(piece)]
        written = 0
        while pieces:
            count = os.writev(self.descriptor, pieces[:1000])
            written += count
            while pieces and count >= len(pieces[0]):
                count -= len(pieces.pop(0))
            if count:
                pieces[0] = memoryview(pieces[0])[count:]


class Window:
    """Reads a pipe at offsets: keeps what was read until it is told to forget it."""

    def __init__(self, file: BinaryIO, look: Callable[[bytes], None]) -> None:
        """`look` is shown everything that is read, once and in order."""
        self.file, self.look = file, look
        self.start = 0
        self.data = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        missing = offset + length - (self.start + len(self.data))
        if missing > 0:
            piece = self.file.read(missing)
            self.look(piece)
            self.data += piece
        first = offset - self.start
        return bytes(self.data[first : first + length])

    def forget(self, offset: int) -> None:
        """Nothing before `offset` will be asked for again."""
        drop = min(offset - self.start, len(self.data))
        if drop > 1 << 20:  # moving the rest of the buffer costs time, so not for every row
            del self.data[:drop]
            self.start += drop


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar: `size` bytes at `offset`."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Link:
    """An entry that stands for another one, by its whole name; a symbolic link's `target` has been made one."""

    name: str
    target: str


@dataclass(frozen=True)
class Odd:
    """An entry whose bytes cannot be referred to as they lie, and why."""

    name: str
    reason: str
    value: str | None = None


Entry = Member | Link | Odd
_REGULAR = (b"0", b"\0", b"7")
_HARD_LINK, _SYMBOLIC_LINK, _FOLDER, _SPARSE, _LABEL = b"1", b"2", b"5", b"S", b"V"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # whatever size their headers state
_DEVICES = (b"3", b"4", b"6")


@dataclass
class TarNote:
    """What our own writer says in front of a tar."""

    history: History
    schema: pa.Schema


def _number(field: bytes) -> int:
    """A number of a header: octal, or base 256 when its first bit is set (GNU, for huge files)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits, 8) if digits else 0


def _checksum_fits(block: bytes) -> bool:
    try:
        stated = _number(block[148:156])
    except ValueError:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * 32


class TarReader:
    """Walks over the members of a tar through `read(offset, length)`, which may return less at the end.

    Where the tar comes through a pipe, `read` is a Window's, and `forget` tells it what is no longer needed.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        name: str,
        forget: Callable[[int], None] = lambda offset: None,
    ) -> None:
        self.read = read
        self.forget = forget
        self.name = name
        self.note: TarNote | None = None
        self.header = b""  # of the entry that came last, with what stands before it of the same entry
        self._pushed: tuple[int, bytes] | None = None

    def read_note(self) -> TarNote | None:
        """The note of our own writer, if the tar begins with one."""
        block = self.read(0, BLOCK)
        if len(block) == BLOCK and block[156:157] == b"g" and _checksum_fits(block):
            size = self._size(block, 0)
            records = self._records(self._payload(BLOCK, size))
            self.note = self._parse_note(records.get("comment", ""))
            self._pushed = (BLOCK + size + len(_pad(size)), b"")
        else:
            self._pushed = (0, block)
        return self.note

    def _parse_note(self, comment: str) -> TarNote | None:
        if not comment.startswith('{"edittools"'):
            return None
        try:
            note = json.loads(comment)
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(note["schema"])))
            map_schema(schema, IMAGE, IMAGE)  # reads every name: one that is not UTF-8 must not turn up later
            return TarNote(History.from_json(json.dumps(note["history"])), schema)
        except (ValueError, KeyError, TypeError, pa.ArrowException, OSError, binascii.Error) as error:
            raise EditError(f"{self.name}: damaged header of edittools: {error}") from error

    def _payload(self, offset: int, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise DamagedError(f"{self.name}: a tar header of {size} bytes at {offset}")
        data = self.read(offset, size)
        if len(data) < size:
            raise IncompleteError(f"{self.name}: the tar ends inside a header")
        return data

    def _size(self, block: bytes, offset: int) -> int:
        try:
            return _number(block[124:136])
        except ValueError:
            raise DamagedError(f"{self.name}: damaged tar header at byte {offset}") from None

    def _records(self, data: bytes) -> dict[str, str]:
        records = {}
        while data.strip(b"\0"):
            length, space, _ = data.partition(b" ")
            if not space or not length.isdigit() or not 0 < int(length) <= len(data):
                raise DamagedError(f"{self.name}: damaged PAX header")
            record = data[len(length) + 1 : int(length)]
            key, _, value = record.rstrip(b"\n").partition(b"=")
            records[text.decode(key)] = text.decode(value)
            data = data[int(length) :]
        return records

    def members(self) -> Iterator[Member]:
        """Every regular file. Raises IncompleteError unless the archive ends with its two zero blocks."""
        return (entry for entry in self.entries() if isinstance(entry, Member))

    def entries(self) -> Iterator[Entry]:
        """Every entry but folders. Raises IncompleteError unless the archive ends with its two zero blocks."""
        if self._pushed is None:
            self.read_note()
        assert self._pushed is not None
        offset, block = self._pushed
        extra: dict[str, str] = {}
        before: list[bytes] = []
        zeros = 0
        while True:
            block = block or self.read(offset, BLOCK)
            if len(block) < BLOCK:
                if zeros >= 2 and not block.strip(b"\0"):
                    return
                raise IncompleteError(
                    f"{self.name}: the tar is cut off at byte {offset + len(block)}",
                    hint="write it again; a tar is complete only with its end-of-archive blocks",
                )
            start, offset = offset, offset + BLOCK
            if block == _ZERO:
                zeros, block = zeros + 1, b""
                continue
            if not _checksum_fits(block):
                raise DamagedError(f"{self.name}: damaged tar header at byte {start}")
            zeros = 0  # after an end, another tar may have been appended
            kind, size = block[156:157], self._size(block, start)
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                data = self._payload(offset, size)
                before.append(data)
                if kind in (b"x", b"X"):
                    extra.update(self._records(data))
                elif kind in (b"L", b"K"):
                    extra["path" if kind == b"L" else "linkpath"] = text.decode(data.split(b"\0", 1)[0])
            else:
                if "size" in extra:
                    size = self._pax_size(extra["size"])
                if kind in _WITHOUT_DATA:
                    size = 0
                if kind == _SPARSE:
                    offset = self._after_sparse_map(block, offset)
                entry = _entry(kind, block, extra, offset, size)
                self.header, before = b"".join([*before, block]), []
                if entry is not None:
                    yield entry
                extra = {}
            offset += size + len(_pad(size))
            block = b""

    def _after_sparse_map(self, block: bytes, offset: int) -> int:
        """Where the data of GNU tar's old sparse files begin: a long map goes on in blocks after the header."""
        more = block[482:483]
        while more not in (b"", b"\0"):
            more = self.read(offset, BLOCK)[504:505]
            offset += BLOCK
        return offset

    def _pax_size(self, stated: str) -> int:
        if not stated.isdecimal():
            raise DamagedError(f"{self.name}: damaged PAX header: size {stated!r}")
        return int(stated)


def _entry(kind: bytes, block: bytes, extra: dict[str, str], offset: int, size: int) -> Entry | None:
    """What a header stands for; None for a folder and a volume's label."""
    name = extra.get("GNU.sparse.name") or extra.get("path") or _ustar_name(block)
    if kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in extra):
        return Odd(name, "sparse file", "its bytes do not lie together: pack it without --sparse")
    if kind in _REGULAR:
        return Member(name, offset, size) if not name.endswith("/") else None  # so tar of 1979 marks folders
    if kind in (_HARD_LINK, _SYMBOLIC_LINK):
        target = extra.get("linkpath") or text.decode(block[157:257].split(b"\0", 1)[0])
        beside = posixpath.dirname(name) if kind == _SYMBOLIC_LINK else ""
        return Link(name, plain_name(posixpath.join(beside, target)))
    if kind in (_FOLDER, _LABEL):
        return None
    return Odd(name, "not a regular file" if kind in _DEVICES else f"tar entry of kind {kind.decode('latin-1')!r}")


def _ustar_name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return text.decode(prefix + b"/" + name if prefix else name)


def follow(link: Link, named: dict[str, Entry]) -> Member | None:
    """The file that a link ends at, by way of other links; None where it leads out of the tar or in a circle.

    `named` are the entries by their `plain_name`.
    """
    seen: set[str] = set()
    entry: Entry | None = link
    while isinstance(entry, Link) and entry.target not in seen:
        seen.add(entry.target)
        entry = named.get(entry.target)
    return entry if isinstance(entry, Member) else None


_UNUSUAL = re.compile(r"\\|^/|//|(^|/)\.{1,2}(/|$)")


def plain_name(name: str) -> str:
    """The one name of an entry, however the program that packed it spells paths: without `./`, `x/..`, doubled slashes,
    those of Windows and a root, and with accents in one sign."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if _UNUSUAL.search(name) is None:
        return name
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/")


def split_name(name: str) -> tuple[str, str]:
    """webdataset's key and extension: the key ends at the first dot of the last path part."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension


def samples(members: Iterable[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Group consecutive members by key: (key, [(extension, member)...])."""
    current: str | None = None
    group: list[tuple[str, Member]] = []
    for member in members:
        key, extension = split_name(member.name)
        if key != current:
            if current is not None:
                yield current, group
            current, group = key, []
        group.append((extension, member))
    if current is not None:
        yield current, group
