"""JPEG files: what stands before the first scan, and their pixels by libjpeg-turbo, with every damage noticed.

The decoder is strict: whatever libjpeg only warns of is an error. Some warnings are of oddities that change no
pixel, which cameras and editors write and every viewer shows (selection parameters of 0, bytes between segments or
behind the scan, no end). A file that is refused is therefore written anew without them (`mended`) and decoded
strictly once more: what is refused then is damaged.

Names and numbers of markers: ITU-T T.81, annex B; the Adobe marker: Adobe TN 5116; profiles: ICC.1:2022, B.4.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from edittools.errors import RowError, describe
from edittools.stream import orientation, spaces
from edittools.stream.header import Header

Buffer = bytes | memoryview

_START, _END, _SCAN, _TABLES = 0xD8, 0xD9, 0xDA, 0xDB
_ADOBE, _JFIF, _EXIF, _ICC = 0xEE, 0xE0, 0xE1, 0xE2
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_SEQUENTIAL, _PROGRESSIVE = {0xC0, 0xC1}, {0xC2, 0xCA}
_LOSSLESS, _HIERARCHICAL, _JPEG_LS = {0xC3, 0xCB}, {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}, 0xF7
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # less those without a length, which say nothing here
# What decides the pixels: frames and Huffman or arithmetic tables, quantization, restarts, and how colour is coded.
_NEEDED = {*range(0xC0, 0xD0), _TABLES, 0xDD, _JFIF, _ADOBE}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # behind a scan, whose own bytes 255 are followed by these
_DAMAGE = ("Corrupt JPEG data", "Premature end")  # how libjpeg begins what it says of the coded pixels


class Declined(Exception):
    """This decoder cannot read the file, which says nothing about its pixels."""


def read(data: Buffer) -> Header | None:
    """The header of a JPEG file; None where there is none that is understood before the first scan, or the end."""
    frame: tuple[int, int, int, int] | None = None
    pieces: list[tuple[int, bytes]] = []
    exif = xmp = b""
    for marker, at, stop in _segments(data, 2):
        if marker == _SCAN:
            break
        if marker in _FRAMES and min(stop, len(data)) - at >= 6:
            frame = struct.unpack_from(">BHHB", data, at)
        elif marker == _EXIF and not exif and data[at : at + 6] == b"Exif\0\0":
            exif = bytes(data[at:stop])
        elif marker == _EXIF and data[at : at + len(_XMP)] == _XMP:
            xmp = bytes(data[at:stop])
        elif marker == _ICC and data[at : at + 12] == b"ICC_PROFILE\0":
            pieces.append((data[at + 12], bytes(data[at + 14 : stop])))
    else:
        return None
    if frame is None or frame[0] != 8 or frame[3] not in _MODES or not frame[1] or not frame[2]:
        return None
    shown = orientation.of_exif(exif) or orientation.of_xmp(xmp) or 1
    profile = b"".join(piece for _, piece in sorted(pieces, key=lambda item: item[0])) or spaces.of_exif(exif)
    return Header.of_stored("jpeg", frame[2], frame[1], _MODES[frame[3]], shown, profile)


def unusual(data: Buffer) -> str | None:
    """What a file is that decoders often cannot read, by its frame; None for the usual kinds."""
    for marker, at, stop in _segments(data, 2):
        if marker == _JPEG_LS:
            return "JPEG-LS"
        if marker in _FRAMES and min(stop, len(data)) - at >= 6:
            precision, height, _, components = struct.unpack_from(">BHHB", data, at)
            if marker in _LOSSLESS:
                return "lossless JPEG"
            if marker in _HIERARCHICAL:
                return "hierarchical JPEG"
            if precision != 8:
                return f"JPEG of {precision} bits"
            if components not in _MODES:
                return f"JPEG of {components} components"
            return "JPEG whose height stands behind its pixels" if height == 0 else None
    return None


def _segments(data: Buffer, at: int) -> list[tuple[int, int, int]]:
    """The segments from `at` to the first scan or the end: (marker, where its content begins, where it ends).

    As libjpeg does it: what stands between two segments and is no marker is passed over.
    """
    found = []
    size = len(data)
    while at + 4 <= size:
        following = _MARKER.search(data, at)
        if following is None or following.start() + 4 > size or data[following.start() + 1] == _END:
            break
        at = following.start()
        marker, stop = data[at + 1], at + 2 + (data[at + 2] << 8) + data[at + 3]
        found.append((marker, at + 4, stop))
        if marker == _SCAN or stop > size:
            break
        at = max(stop, at + 2)
    return found


def decode(data: Buffer, colour: str, min_width: int, min_height: int) -> np.ndarray:
    """uint8 HxWxC in `colour` (Gray, RGB, RGBX, CMYK), at the least of libjpeg's scales that has this many pixels.

    Raises RowError for damage and Declined for what libjpeg-turbo does not read.
    """
    try:
        return _decode(data, colour, min_width, min_height)
    except ValueError as error:
        first = error
    whole = mended(bytes(data))
    if whole is not None:
        try:
            return _decode(whole, colour, min_width, min_height)
        except ValueError as error:
            first = error
    if str(first).startswith(_DAMAGE):
        raise RowError("damaged image", describe(first).partition(": ")[2])
    raise Declined(str(first))


def _decode(data: Buffer, colour: str, min_width: int, min_height: int) -> np.ndarray:
    import simplejpeg

    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data,
        colorspace=colour,
        fastdct=False,
        fastupsample=False,
        min_height=min_height,
        min_width=min_width,
        min_factor=1,
        strict=True,
    )
    return pixels


def mended(data: bytes) -> bytes | None:
    """The same pixels in a file without oddities; None where a part of them is missing.

    Kept are the segments that decide pixels, and the scans. A sequential frame's scans get the parameters that the
    standard demands (0, 63, 0), an Adobe marker the colour transform that libjpeg assumes, and the file an end.
    """
    pieces = [b"\xff\xd8"]
    missing = _Missing()
    frames = [data[start:stop] for marker, start, stop in _segments(data, 2) if marker in _FRAMES]
    of_inks = bool(frames) and frames[0][5:6] == b"\4"  # components; the Adobe marker often stands before the frame
    sequential, at, ended = False, 2, False
    while True:
        segments = _segments(data, at)
        for marker, start, stop in segments:
            content = data[start:stop]
            if marker in _FRAMES:
                sequential = marker in _SEQUENTIAL
                missing.begin(content, progressive=marker in _PROGRESSIVE)
            if marker == _SCAN:
                missing.scan(content)
                content = content[:-3] + b"\0\x3f\0" if sequential else content
            elif marker == _ADOBE and content[:5] == b"Adobe" and len(content) >= 12 and content[11]:
                content = content[:11] + bytes([2 if of_inks else 1]) + content[12:]
            if marker in _NEEDED or marker == _SCAN:
                pieces.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
        if not segments or segments[-1][0] != _SCAN:
            break
        start = segments[-1][2]
        following = _NEXT_MARKER.search(data, start)
        at = following.start() if following else len(data)
        pieces.append(_without_padding(data[start:at]))
        ended = following is not None and following[0][-1] == _END
        if following is None or ended:
            break
    if not ended and missing:
        return None
    return b"".join([*pieces, b"\xff\xd9"])


def _without_padding(scan: bytes) -> bytes:
    """A scan without the zeros that some cameras write behind it: coded pixels end with ones, or with 255, 0."""
    bare = scan.rstrip(b"\0")
    return bare + b"\0" if bare.endswith(b"\xff") and bare != scan else bare


class _Missing:
    """Which coefficients of a frame no scan has brought in full: true while there are some.

    The components of a sequential frame come whole; a progressive one's coefficients in bands, and bit by bit.
    """

    def __init__(self) -> None:
        self.progressive = False
        self.left: dict[int, set[int]] = {}

    def __bool__(self) -> bool:
        return not self.left or any(self.left.values())

    def begin(self, frame: bytes, progressive: bool) -> None:
        self.progressive = progressive
        self.left = {frame[k]: set(range(64)) for k in range(6, len(frame) - 2, 3)}

    def scan(self, header: bytes) -> None:
        if len(header) < 6:
            return
        first, last, approximation = header[-3:]
        band = range(first, last + 1) if self.progressive else range(64)
        if not self.progressive or approximation & 15 == 0:  # its last bit
            for k in range(1, len(header) - 4, 2):
                self.left.get(header[k], set()).difference_update(band)
