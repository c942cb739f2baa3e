"""Which way up an image is shown: EXIF's tag 0x0112, or XMP's `tiff:Orientation`, wherever files keep them.

The values are those of TIFF 6.0, section 8: 1 to 8, 1 for an image that is stored as it is shown.
"""

from __future__ import annotations

import re

from edittools.stream import ifd

_TAG = 0x0112
_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|\s*>)\s*([0-9])""")


def of_exif(data: bytes) -> int | None:
    """The orientation that EXIF (a TIFF file, with `Exif\\0\\0` before it or not) states; None where it states none.

    A value that is none, or a damaged directory, says nothing about the image.
    """
    found = ifd.read(data.removeprefix(b"Exif\0\0"), (_TAG,)).get(_TAG)
    return valid(found[0]) if found else None


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
