"""The colour space that an AVIF or HEIC file states by code points.

Boxes: ISO/IEC 14496-12, 4.2 and 12.1.5; items and their properties: ISO/IEC 23008-12, 9.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator


def code_points(data: bytes | memoryview) -> tuple[int, int] | None:
    """Primaries and transfer of ITU-T H.273 that belong to the primary image; None where none are stated."""
    try:
        parts = dict(_boxes(_named(_boxes(memoryview(data)), b"meta")[4:]))
        properties = dict(_boxes(parts[b"iprp"]))
        (primary,) = struct.unpack_from(">I" if parts[b"pitm"][0] else ">H", parts[b"pitm"], 4)
        every = list(_boxes(properties[b"ipco"]))
        for index in _associated(properties[b"ipma"], primary):
            kind, content = every[index - 1] if 0 < index <= len(every) else (b"", memoryview(b""))
            if kind == b"colr" and bytes(content[:4]) == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", content, 4)
                return primaries, transfer
    except (struct.error, KeyError, IndexError):
        pass
    return None


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes side by side: their kinds and contents. What is cut off ends them."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and start + 8 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = len(data) if length == 0 else at + length
        if stop < start:
            return
        yield kind, data[start:stop]
        at = stop


def _named(boxes: Iterator[tuple[bytes, memoryview]], name: bytes) -> memoryview:
    for kind, content in boxes:
        if kind == name:
            return content
    raise KeyError(name)


def _associated(content: memoryview, item: int) -> list[int]:
    """The numbers, from 1, of an item's properties."""
    version, wide = content[0], content[3] & 1
    (count,) = struct.unpack_from(">I", content, 4)
    at = 8
    for _ in range(count):
        (found,) = struct.unpack_from(">I" if version else ">H", content, at)
        at += 4 if version else 2
        number = content[at]
        at += 1
        if found == item:
            form, mask = (">H", 0x7FFF) if wide else (">B", 0x7F)
            size = struct.calcsize(form)
            return [struct.unpack_from(form, content, at + size * k)[0] & mask for k in range(number)]
        at += number * (2 if wide else 1)
    return []
