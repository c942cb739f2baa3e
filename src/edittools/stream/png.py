"""PNG files: what their chunks say, and the file without those that are not about pixels.

Pillow gives up an image for a text that is long, a chunk behind the pixels that it reads late, or a wrong checksum
of a comment. It is therefore given the chunks that decide pixels only; orientation and colour profile are read here.
(PNG, third edition, sections 5 and 11.)
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edittools.errors import RowError
from edittools.stream import orientation, spaces
from edittools.stream.header import Header

if TYPE_CHECKING:
    from PIL import Image

Buffer = bytes | memoryview

_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND"}
_COLOURS = {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}
_END = b"\0\0\0\0IEND\xaeB`\x82"
# Pillow's mode by bit depth and colour type.
_MODES = {(1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (16, 0): "I;16"}
_MODES |= {(depth, 2): "RGB" for depth in (8, 16)} | {(depth, 3): "P" for depth in (1, 2, 4, 8)}
_MODES |= {(8, 4): "LA", (16, 4): "RGBA", (8, 6): "RGBA", (16, 6): "RGBA"}
_PALETTE = 3
_TRANSPARENT = {0: 2, 2: 6}  # bytes of tRNS by colour type; a palette has one for every entry
_MOST_TEXT = 16 << 20  # of a profile or a packet of XMP when it is unpacked


@dataclass(frozen=True, slots=True)
class Chunks:
    """The metadata of the chunks."""

    header: Header
    depth: int  # bits of a sample
    transparent: tuple[int, ...] | None  # the level, or the three, that are not shown (tRNS of grey and RGB)
    needed: tuple[tuple[int, int], ...] = field(repr=False)  # where the chunks that decide pixels begin and end
    plain: bool  # nothing else is in the file
    ended: bool


def read(data: Buffer) -> Chunks:
    """Walk over the chunks; those behind a cut are missing. Raises RowError for a header that cannot be read."""
    at, size, frames, plain, ended = 8, len(data), 1, True, False
    needed: list[tuple[int, int]] = []
    shown: int | None = None
    late: int | None = None  # what stands in other places than EXIF's own
    said: dict[bytes, bytes] = {}  # about colours
    transparent: tuple[int, ...] | None = None
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
        if kind == b"tRNS" and colour != _PALETTE:
            plain = False
            if length == _TRANSPARENT.get(colour) and stop <= size:
                transparent = struct.unpack_from(f">{length // 2}H", data, at + 8)
        elif kind in _NEEDED:
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
                elif kind in _COLOURS:
                    said.setdefault(kind, bytes(content))
        at = stop
    if colour == _PALETTE and not any(bytes(data[start + 4 : start + 8]) == b"PLTE" for start, _ in needed):
        raise RowError("damaged image", "the palette is missing")
    mode = _MODES[depth, colour] if transparent is None else {0: "LA", 2: "RGBA"}[colour]
    header = Header.of_stored("png", width, height, mode, shown or late or 1, _profile(said) if said else None, frames)
    return Chunks(header, depth, transparent, tuple(needed), plain, ended)


def _profile(said: dict[bytes, bytes]) -> bytes | None:
    """The profile of the chunk that goes before all others: cICP, iCCP, sRGB, gAMA with cHRM (section 4.3)."""
    points = said.get(b"cICP", b"")
    if len(points) == 4 and points[2] == 0:  # of RGB: no matrix
        found = spaces.of_code_points(points[0], points[1], full_range=points[3] != 0)
        if found is not None:
            return found
    packed = said.get(b"iCCP")
    profile = _unpacked(packed.partition(b"\0")[2][1:]) if packed is not None else None
    if profile or b"sRGB" in said:
        return profile
    power, places = said.get(b"gAMA", b""), said.get(b"cHRM", b"")
    gamma = int.from_bytes(power) / 100_000 if len(power) == 4 else None
    chromaticities = tuple(n / 100_000 for n in struct.unpack(">8I", places)) if len(places) == 32 else None
    return spaces.of_gamma(gamma, chromaticities)


def pixels(data: Buffer, chunks: Chunks) -> bytes:
    """The file with the chunks that decide its pixels only, and with an end if only that was missing."""
    whole = chunks.ended or chunks.needed[-1][1] > len(data)  # of a chunk that is cut off Pillow finds what is lost
    if chunks.plain and whole:
        return bytes(data)
    pieces: list[Buffer] = [data[:8], *(data[start:stop] for start, stop in chunks.needed)]
    return b"".join(pieces if whole else [*pieces, _END])


def hidden(data: bytes, image: Image.Image, chunks: Chunks) -> np.ndarray | None:
    """Which pixels are transparent by a level or colour of their own, bool HxW; None where none can be.

    `image` is what Pillow reads of `data`. It would compare samples that are scaled to 8 bits with what is stored.
    """
    if chunks.transparent is None:
        return None
    if chunks.depth < 8:
        samples = np.asarray(image.convert("L")) // (255 // (2**chunks.depth - 1))
    else:
        samples = np.asarray(image)
    if chunks.depth == 16 and samples.ndim == 3:
        samples = sixteen_bits(data, image)
    alike: np.ndarray = samples == np.array(chunks.transparent) % 2**chunks.depth
    return np.all(alike, axis=2) if alike.ndim == 3 else alike


def sixteen_bits(data: bytes, image: Image.Image) -> np.ndarray:
    """The samples of RGB or RGBA of 16 bits, of which Pillow gives the high bytes as `image`: in the other order of
    bytes the low ones come."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as again:
        again.tile = [tile._replace(args=f"{image.mode};16L") for tile in again.tile]
        both: np.ndarray = np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)
        return both


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
    """Inflate data up to a bound; None where it is damaged or larger."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MOST_TEXT)
    except zlib.error:
        return None
    return text if unpacker.eof else None
