"""What is in the files of a set and beside it, opened as far as can be: archives, compressed files, tables, texts.

What cannot be opened is said, so that nothing passes for searched that was not looked at.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import json
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from edittools.dedup.private_words import texts_of
from edittools.errors import describe
from edittools.stream import text
from edittools.stream.readers import archive

_MOST_TEXT = 64 << 20  # bytes of a text that are read at a time
_OVERLAP = 8 << 20  # bytes that are read again with what follows: the line that was cut
_MOST_UNPACKED = 16 << 30
_DEEPEST = 4  # archives in archives
_CLOSED = {  # compressed, and not opened here
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\7": "a RAR archive",
    b"\x04\x22\x4d\x18": "compressed by LZ4",
    b"LZIP\1": "compressed by lzip",
    b"\x1f\x9d": "compressed by compress",
    b"%PDF-": "a PDF",
    b"Obj\1": "an Avro file",
    b"\x89HDF": "an HDF5 file",
}
_FAILS = (*archive.DAMAGE, tarfile.TarError, RuntimeError, ValueError)  # RuntimeError: a password, an unknown method
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass
class Searched:
    """A part of a file: its texts, its bytes where they are not those of the file, or why it could not be searched."""

    place: str
    texts: list[str] = field(default_factory=list)
    data: IO[bytes] | None = None
    problem: str = ""


def pieces_of(path: str, name: str) -> Iterator[Searched]:
    """All that a local file holds; `name` is its path within the set. The data of a piece are to be read before the
    next one is asked for."""
    yield Searched(path, [name])
    if not os.path.isfile(path):
        yield Searched(path, problem="no file, or a link to a folder or to nothing")
        return
    try:
        with open(path, "rb") as file:
            yield from _inside(file, path, 0)
    except _FAILS as error:
        yield Searched(path, problem=describe(error))


def _inside(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    head = file.read(4096)
    file.seek(0)
    opens = archive.compression(head)
    closed = next((what for start, what in _CLOSED.items() if head.startswith(start)), None)
    read: Callable[[IO[bytes], str, int], Iterator[Searched]] = _lines
    if opens is not None:
        read = functools.partial(_compressed, opens)
    elif head[257:262] == b"ustar" or (head[:1].strip(b"\0") and len(head) >= 512 and _is_tar(file)):
        read = _tar
    elif head.startswith((b"PAR1", b"PARE")):
        read = _parquet
    elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        read = _arrow
    elif head.startswith(b"PK\3\4") or zipfile.is_zipfile(file):
        read = _zip
    if depth > _DEEPEST and read is not _lines:
        closed = "archives in archives, too deep"
    if closed is not None:
        yield Searched(place, problem=closed)
        return
    file.seek(0)
    try:
        yield from read(file, place, depth)
    except _FAILS as error:
        yield Searched(place, problem=describe(error))


def _is_tar(file: IO[bytes]) -> bool:
    file.seek(0)
    return tarfile.is_tarfile(file)


@contextlib.contextmanager
def _copied(stream: Any) -> Iterator[IO[bytes]]:
    """A stream as a file that can be read from any place. Raises ValueError where it is too large."""
    with tempfile.SpooledTemporaryFile(_MOST_TEXT, prefix="edittools-") as file:
        size = 0
        while data := stream.read(1 << 20):
            size += len(data)
            if size > _MOST_UNPACKED:
                raise ValueError(f"more than {_MOST_UNPACKED} bytes")
            file.write(data)
        file.seek(0)
        yield file


def _unpacked(stream: Any, place: str, depth: int) -> Iterator[Searched]:
    with _copied(stream) as file:
        yield Searched(place, data=file)
        file.seek(0)
        yield from _inside(file, place, depth + 1)


def _compressed(opens: Callable[[IO[bytes]], Any], file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    yield from _unpacked(opens(file), place, depth)


def _tar(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            where = f"{place}: {member.name}"
            yield Searched(where, [member.name, member.linkname, *map(str, member.pax_headers.values())])
            if (data := tar.extractfile(member) if member.isfile() else None) is not None:
                yield from _inside(data, where, depth + 1)
        file.seek(tar.offset)  # a damaged header ends the list of members without a word
        while rest := file.read(1 << 20):
            if rest.strip(b"\0"):
                yield Searched(place, problem="damaged, or something follows the end of the tar")
                return


def _zip(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    with zipfile.ZipFile(file) as zipped:
        for entry in zipped.infolist():
            where = f"{place}: {archive.member_name(entry)}"
            yield Searched(where, [archive.member_name(entry), entry.comment.decode("latin-1")])
            try:
                with zipped.open(entry) as data:
                    yield from _unpacked(data, where, depth)
            except _FAILS as error:
                yield Searched(where, problem=describe(error))


def _parquet(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    with pq.ParquetFile(file) as table:
        yield from _schema(table.schema_arrow, place)
        packed = _has_packed_bytes(table.metadata)
        for batch in table.iter_batches(batch_size=64):
            yield from _rows(batch, place, packed)


def _has_packed_bytes(table: pq.FileMetaData) -> bool:
    """Whether bytes, of images, stand in the file otherwise than as they are."""
    columns = [k for k in range(table.num_columns) if table.schema.column(k).physical_type == "BYTE_ARRAY"]
    columns = [k for k in columns if table.schema.column(k).converted_type != "UTF8"]
    groups = [table.row_group(k) for k in range(table.num_row_groups)]
    return any(group.column(k).compression != "UNCOMPRESSED" for group in groups for k in columns)


def _arrow(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    if file.read(6) == b"ARROW1":
        with pa.ipc.open_file(pa.PythonFile(file, mode="r")) as reader:
            yield from _schema(reader.schema, place)
            for number in range(reader.num_record_batches):
                yield from _rows(reader.get_batch(number), place, True)
        return
    file.seek(0)
    with pa.ipc.open_stream(pa.PythonFile(file, mode="r")) as stream:
        yield from _schema(stream.schema, place)
        for batch in stream:
            yield from _rows(batch, place, True)


def _schema(schema: pa.Schema, place: str) -> Iterator[Searched]:
    said = [
        value.decode("utf-8", "replace") for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"
    ]
    yield Searched(place, [*schema.names, *(one for value in said for one in _of_json(value))])


def _rows(batch: pa.RecordBatch, place: str, packed: bool) -> Iterator[Searched]:
    for row in batch.to_pylist():
        yield Searched(place, list(texts_of(row)))
        for data in _bytes_of(row) if packed else ():
            yield Searched(place, data=io.BytesIO(data))


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _bytes_of(inner)


def _lines(file: IO[bytes], place: str, depth: int) -> Iterator[Searched]:
    """A text in parts of 64 MiB; nothing of what is no text, whose bytes are searched as they are."""
    head = file.read(4096)
    if "\0" in text.decode(head[: len(head) // 2 * 2]):
        return
    file.seek(0)
    wide = b"\0" in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    data, more = file.read(_MOST_TEXT), file.read(_MOST_TEXT)
    while data:
        yield Searched(place, _texts(data))
        last = data[-_OVERLAP:]
        if more and (wide or b"\n" not in last):
            yield Searched(place, problem=f"a text of UTF-16, or a line, of more than {_OVERLAP} bytes")
            return
        data = last[last.find(b"\n") + 1 :] + more if more else b""  # a line that was cut is read again
        more = file.read(_MOST_TEXT)


def _texts(data: bytes) -> list[str]:
    """The texts of a file: strings of JSON and JSON lines, else lines."""
    content = text.decode(data)
    found = [*_of_json(content), *content.splitlines()]
    if "\\u" in content:  # in objects of several lines
        found.append(_ESCAPE.sub(lambda sign: chr(int(sign[1], 16)), content))
    return found


def _of_json(content: str) -> list[str]:
    if content[:1] not in ("{", "["):
        return [content]
    with contextlib.suppress(ValueError, RecursionError):
        return [content, *texts_of(json.loads(content))]
    found = [content]
    for line in io.StringIO(content):
        try:
            found += texts_of(json.loads(line))
        except (ValueError, RecursionError):
            found.append(line)
    return found
