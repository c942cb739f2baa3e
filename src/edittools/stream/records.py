"""The records of a text file that holds a table: JSON lines, a JSON array or object of records, CSV.

Each comes with its number, from 0, or with why it is none. A JSON array is read piece by piece, so that a large one is
never in memory as a whole; a table in CSV is.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS
from edittools.stream import text

Record = tuple[int, "dict[str, Any] | RowError"]
Reader = Callable[[BinaryIO, text.Guesses], Iterator[Record]]
_LINE_LIMIT = 256 << 20  # bytes of one line
_PIECE = 1 << 20  # bytes of an array that are read at a time
_SPACE = " \t\r\n"
_TABLES = {".csv": ",", ".tsv": "\t"}


def reader_for(name: str, head: bytes) -> Reader | None:
    """How to read a file, by its first bytes, and of a table without any sign of its own by its name."""
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    if ending in _TABLES:
        return lambda file, guesses: csv_records(file, guesses, _TABLES[ending])
    start = text.decode(head[:1024]).lstrip()  # whole characters of UTF-16 and UTF-32
    if not start and ending in (".jsonl", ".ndjson"):
        return line_records
    if start[:1] == "[":
        return array_records
    if start[:1] == "{":
        return line_records if ending in (".jsonl", ".ndjson") else object_records
    if ending == ".txt" and start[:8].lower().startswith(("http://", "https://")):
        return address_records
    return None


def address_records(file: BinaryIO, guesses: text.Guesses) -> Iterator[Record]:
    """A text with the address of an image in every line, as img2dataset reads it too; empty lines have a number."""
    file = _in_single_bytes(file, guesses)
    for number, line in enumerate(iter(lambda: file.readline(_LINE_LIMIT), b"")):
        if address := text.decode(line, guesses).strip("\ufeff \t\r\n"):
            yield number, {"image": address}


def _in_single_bytes(file: BinaryIO, guesses: text.Guesses) -> BinaryIO:
    """A file whose lines end with one byte: of UTF-16 and UTF-32, where these are two or four, a copy in UTF-8."""
    head = file.read(1024)
    file.seek(0)
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked or (b"\0" in head and "\0" not in text.decode(head)):  # without a mark
        return io.BytesIO(text.decode(file.read(), guesses).encode())
    return file


def line_records(file: BinaryIO, guesses: text.Guesses) -> Iterator[Record]:
    """JSON lines. An empty line has a number, but is no record."""
    file = _in_single_bytes(file, guesses)
    number = 0
    while line := file.readline(_LINE_LIMIT):
        if len(line) == _LINE_LIMIT and not line.endswith(b"\n"):
            size = len(line)
            while rest := file.readline(_PIECE):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield number, RowError("line too long", f"{size} bytes")
        elif line.strip(b" \t\r\n\xef\xbb\xbf\0"):
            yield number, _record(text.decode(line, guesses))
        number += 1


def _record(line: str) -> dict[str, Any] | RowError:
    try:
        return _as_record(text.load_json(line))
    except (ValueError, RecursionError) as error:
        return RowError("not JSON", str(error))


def _shallow_record(value: Any) -> dict[str, Any] | RowError:
    try:
        text.refuse_deep(value)
        return _as_record(text.valid_value(value))
    except RecursionError as error:
        return RowError("not JSON", str(error))


def _as_record(value: Any) -> dict[str, Any] | RowError:
    return value if isinstance(value, dict) else RowError("not a JSON object", json.dumps(value)[:80])


def object_records(file: BinaryIO, guesses: text.Guesses) -> Iterator[Record]:
    """JSON lines after all, or one JSON object: a record, or records by their names, which are kept as `key`."""
    first = b""
    while not first.strip(b" \t\r\n\xef\xbb\xbf") and (first := file.readline(_LINE_LIMIT)):
        pass
    more = bool(file.read(4096).strip())
    file.seek(0)
    value = _record(text.decode(first, text.Guesses()))
    if more and isinstance(value, dict):
        yield from line_records(file, guesses)
        return
    try:
        value = _as_record(text.load_json(text.decode(file.read(), guesses)))
    except (ValueError, RecursionError):  # not one object: lines, of which the first is damaged
        file.seek(0)
        yield from line_records(file, guesses)
        return
    if not isinstance(value, dict) or not value or not _is_table(value):
        _refuse_lists(value)
        yield 0, value
        return
    for number, (name, item) in enumerate(value.items()):
        yield number, {"key": name, **item} if "key" not in item else item


_COLUMNS = {*COLUMNS, "image", "file_name"}  # an object with one of these is a record


def _is_table(value: dict[str, Any]) -> bool:
    """Whether an object holds records by their names, rather than being one whose columns are objects."""
    return all(isinstance(item, dict) for item in value.values()) and not _COLUMNS & value.keys()


def _refuse_lists(value: dict[str, Any] | RowError) -> None:
    """Raises UsageError for an object that holds tables, as COCO's annotations do: which one is meant?"""
    if isinstance(value, RowError) or _COLUMNS & value.keys():
        return
    lists = [name for name, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if lists:
        raise UsageError(
            f"a JSON object with lists of records ({', '.join(lists)}): which are the rows?",
            hint=f"take them out first: jq -c '.{lists[0]}[]' FILE > rows.jsonl",
        )


def array_records(file: BinaryIO, guesses: text.Guesses) -> Iterator[Record]:
    """The objects of a JSON array. Where it is damaged, the rest is one record that is none."""
    pieces = _pieces(file, guesses)
    held, at, number, ended = "", 0, 0, False
    opened = False
    while True:
        while at < len(held) and (held[at] in _SPACE or held[at] == ","):
            at += 1
        if not opened and at < len(held):
            opened, at = True, at + 1  # the bracket
            continue
        if at < len(held) and held[at] == "]":
            if held[at + 1 :].strip(_SPACE) or any(piece.strip(_SPACE) for piece in pieces):
                yield number, RowError("not JSON", "something follows the end of the array")
            return
        problem = "the array does not end"
        if at < len(held):
            try:
                value, end = text.JSON.raw_decode(held, at)
                if end < len(held) or ended:  # a number may go on in the next piece
                    yield number, _shallow_record(value)
                    number, at = number + 1, end
                    continue
            except RecursionError as error:
                yield number, RowError("not JSON", str(error))
                return
            except ValueError as error:
                problem = str(error)
        if ended:
            yield number, RowError("not JSON", f"{problem}; nothing after it could be read")
            return
        more = []
        size = 0
        while size <= len(held) - at and not ended:  # twice as much each time, so that a long record is tried seldom
            piece = next(pieces, "")
            ended = not piece
            more.append(piece)
            size += len(piece)
        held, at = held[at:] + "".join(more), 0


def _pieces(file: BinaryIO, guesses: text.Guesses) -> Iterator[str]:
    """A text file piece by piece. What is neither UTF-8 nor has a byte order mark is read whole, to be guessed at."""
    head = file.read(4)
    file.seek(0)
    name = "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    decoder = codecs.getincrementaldecoder(name)()
    done = 0
    try:
        while data := file.read(_PIECE):
            yield decoder.decode(data)
            done += len(data)
    except UnicodeDecodeError:
        file.seek(done)
        yield text.decode(decoder.getstate()[0] + file.read(), guesses)


def _column_names(cells: list[str]) -> list[str]:
    """The names in the first line of a table, without the spaces round them, each one once."""
    names: list[str] = []
    for cell in cells:
        name = cell.strip()
        while name in names:
            name = f"user_{name}"
        names.append(name)
    return names


def csv_records(file: BinaryIO, guesses: text.Guesses, delimiter: str = ",") -> Iterator[Record]:
    """The lines of a table whose first line names the columns; an empty cell is no value. The second of two columns of
    one name is `user_NAME`, as in JSON."""
    csv.field_size_limit(_LINE_LIMIT)
    content = text.decode(file.read(), guesses)
    first = content.partition("\n")[0]
    if delimiter not in first:  # as spreadsheets write it where the comma is in numbers, or a table by another name
        delimiter = next((sign for sign in ";\t," if sign in first), delimiter)
    table = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        names = _column_names(next(table, []))
        for number, cells in enumerate(table):
            if not cells:
                continue
            if len(cells) > len(names):
                yield number, RowError("more cells than columns", f"{len(cells)} in a table of {len(names)}")
            else:
                yield number, {name: cell or None for name, cell in zip(names, cells)}
    except csv.Error as error:
        yield table.line_num, RowError("not CSV", str(error))
