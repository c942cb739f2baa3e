"""PNG files: what their chunks say, and the file without those that are not about pixels.

Pillow gives up a picture for a text that is long, a chunk behind the pixels that it reads late, or a wrong checksum
of a comment. It is therefore given the chunks that decide pixels only; orientation and colour profile are read here.
(PNG, third edition, sections 5 and 11.)
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from edittools.errors import RowError
from edittools.stream import orientation

Buffer = bytes | memoryview

_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND"}
_END = b"\0\0\0\0IEND\xaeB`\x82"
# Pillow's mode by bit depth and colour type.
_MODES = {(1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (16, 0): "I;16"}
_MODES |= {(depth, 2): "RGB" for depth in (8, 16)} | {(depth, 3): "P" for depth in (1, 2, 4, 8)}
_MODES |= {(8, 4): "LA", (16, 4): "RGBA", (8, 6): "RGBA", (16, 6): "RGBA"}
_MOST_TEXT = 16 << 20  # of a profile or a packet of XMP when it is unpacked


@dataclass(frozen=True, slots=True)
class Header:
    """What the chunks say. Width and height as stored; `mode` is Pillow's."""

    width: int
    height: int
    mode: str
    orientation: int
    profile: bytes | None = field(repr=False)
    frames: int
    needed: tuple[tuple[int, int], ...] = field(repr=False)  # where the chunks that decide pixels begin and end
    plain: bool  # nothing else is in the file
    ended: bool


def read(data: Buffer) -> Header:
    """Walk over the chunks; those behind a cut are missing. Raises RowError for a header that cannot be read."""
    at, size, frames, plain, ended = 8, len(data), 1, True, False
    needed: list[tuple[int, int]] = []
    shown: int | None = None
    late: int | None = None  # what stands in other places than EXIF's own
    profile = None
    head = bytes(data[8:33])
    if head[4:8] == b"CgBI":
        raise RowError("unsupported format", "PNG as Xcode packs it (CgBI)")
    if len(head) < 25 or head[4:8] != b"IHDR" or zlib.crc32(head[4:21]) != int.from_bytes(head[21:]):
        raise RowError("damaged image", "the header cannot be read")
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 8)
    if (depth, colour) not in _MODES:
        raise RowError("damaged image", f"PNG of {depth} bits and colour type {colour}")
    while at + 8 <= size:
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if kind in _NEEDED:
            needed.append((at, stop))
            if kind == b"acTL" and stop <= size:
                frames = max(1, struct.unpack_from(">I", data, at + 8)[0])
            elif kind == b"IEND":
                ended = True
                break
        else:
            plain = False
            if stop <= size:
                content = data[at + 8 : at + 8 + length]
                if kind == b"eXIf":
                    shown = orientation.of_exif(bytes(content)) if shown is None else shown
                elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                    late = _orientation(kind, content) or late
                elif kind == b"iCCP" and profile is None:
                    profile = _unpacked(bytes(content).partition(b"\0")[2][1:])
        at = stop
    mode = _MODES[depth, colour]
    return Header(width, height, mode, shown or late or 1, profile, frames, tuple(needed), plain, ended)


def pixels(data: Buffer, header: Header) -> bytes:
    """The file with the chunks that decide its pixels only, and with an end if only that was missing."""
    whole = header.ended or header.needed[-1][1] > len(data)  # of a chunk that is cut off Pillow finds what is lost
    if header.plain and whole:
        return bytes(data)
    pieces: list[Buffer] = [data[:8], *(data[start:stop] for start, stop in header.needed)]
    return b"".join(pieces if whole else [*pieces, _END])


def _orientation(kind: bytes, content: Buffer) -> int | None:
    """The orientation that a text states: a packet of XMP, or EXIF as ImageMagick writes it."""
    name, _, rest = bytes(content[:80]).partition(b"\0")
    if name == b"XML:com.adobe.xmp" and kind == b"iTXt":
        packed, _, tail = rest[:1] == b"\1", rest[1:2], bytes(content[len(name) + 3 :])
        text = tail.split(b"\0", 2)[-1]  # behind a language and a translated keyword
        return orientation.of_xmp(_unpacked(text) or b"" if packed else text)
    if name in (b"Raw profile type exif", b"Raw profile type APP1"):
        text = bytes(content[len(name) + 1 :])
        return orientation.of_raw_profile(_unpacked(text[1:]) or b"" if kind == b"zTXt" else text)
    return None


def _unpacked(data: bytes) -> bytes | None:
    """What zlib packed, up to a bound; None where it is damaged or larger."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MOST_TEXT)
    except zlib.error:
        return None
    return text if unpacker.eof else None
