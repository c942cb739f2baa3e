"""Which way up a picture is shown: EXIF's tag 0x0112, or XMP's `tiff:Orientation`, wherever files keep them.

The values are those of TIFF 6.0, section 8: 1 to 8, 1 for a picture that is stored as it is shown.
"""

from __future__ import annotations

import re
import struct

_TAG = 0x0112
_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|\s*>)\s*([0-9])""")
_MOST_ENTRIES = 1000  # of a directory; a damaged one claims 65535


def of_exif(data: bytes) -> int | None:
    """The orientation that EXIF (a TIFF file, with `Exif\\0\\0` before it or not) states; None where it states none.

    A value that is none, or a damaged directory, says nothing about the picture.
    """
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, _MOST_ENTRIES), 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            if tag == _TAG:
                form = {3: "H", 4: "I"}.get(kind)  # a short or a long
                return valid(struct.unpack_from(order + form, data, entry + 8)[0]) if form else 1
    except struct.error:
        pass
    return None


def of_xmp(data: bytes) -> int | None:
    """The orientation that an XMP packet states; None where it states none."""
    found = _XMP.search(data)
    return valid(int(found[1])) if found else None


def of_raw_profile(text: bytes) -> int | None:
    """The orientation in ImageMagick's `Raw profile type exif`: a name, a length and hexadecimal digits, in lines."""
    try:
        data = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return None
    return of_exif(data) or of_xmp(data)


def valid(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
