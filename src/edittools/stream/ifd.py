"""Directories of TIFF files, which EXIF is one of: their tags and values (TIFF 6.0, section 2; BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

Buffer = bytes | memoryview

_MOST_ENTRIES = 1000  # of a directory; a damaged one claims 65535
# The form of one value by the number of its type, as `struct` writes it.
_FORMS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_FORMS |= {16: "Q", 17: "q", 18: "Q"}


def order(data: Buffer) -> str | None:
    """`<` or `>`, by the first bytes; None for what is no such file."""
    return {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))


def is_big(data: Buffer) -> bool:
    """Whether offsets have 64 bits (BigTIFF)."""
    return bytes(data[2:4]) in (b"+\0", b"\0+")


def read(data: Buffer, wanted: Collection[int], at: int | None = None) -> dict[int, tuple[Any, ...]]:
    """The values of the wanted tags in the first directory, or in the one `at` this place: those that can be read.

    Text and bytes of no kind are one value.
    """
    ordered, big = order(data), is_big(data)
    found: dict[int, tuple[Any, ...]] = {}
    if ordered is None:
        return found
    try:
        if at is None:
            (at,) = struct.unpack_from(ordered + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(ordered + ("Q" if big else "H"), data, at)
        entry = struct.Struct(ordered + ("HHQ8s" if big else "HHI4s"))
        start = at + (8 if big else 2)
        entries = data[start : start + entry.size * min(count, _MOST_ENTRIES)]
        for tag, kind, number, value in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
            if tag in wanted and kind in _FORMS and tag not in found:
                found[tag] = _values(data, ordered, _FORMS[kind], number, value)
    except (struct.error, OverflowError):
        pass
    return found


def count(data: Buffer) -> int:
    """The directories of a file, which stand for its images, one after the other: 1 at least."""
    ordered, big = order(data), is_big(data)
    offset, number, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    at = 8 if big else 4
    seen: set[int] = set()
    try:
        while len(seen) < _MOST_ENTRIES:
            (at,) = struct.unpack_from(f"{ordered}{offset}", data, at)
            if at == 0 or at in seen:
                break
            seen.add(at)
            (entries,) = struct.unpack_from(f"{ordered}{number}", data, at)
            at += struct.calcsize(f"={number}") + size * entries
    except (struct.error, OverflowError):
        pass
    return max(1, len(seen))


def _values(data: Buffer, ordered: str, form: str, number: int, value: bytes) -> tuple[Any, ...]:
    """The values of an entry, which stand in it where they fit; none where they lie behind the end."""
    size = struct.calcsize(f"{ordered}{form}") * number
    at = 0
    if size > len(value):
        (at,) = struct.unpack(ordered + ("Q" if len(value) == 8 else "I"), value)
        if at + size > len(data):
            return ()
    text = f"{number}s" if form == "s" else form * number if len(form) > 1 else f"{number}{form}"
    return struct.unpack_from(ordered + text, value if size <= len(value) else data, at)
