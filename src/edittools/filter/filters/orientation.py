"""EXIF orientation."""

from edittools.filter import Filter

FILTER = Filter(
    name="orientation",
    help="EXIF orientation that is applied whenever the image is decoded; `1` keeps what is stored upright.",
    unit="1 to 8",
    group="Size",
    source="EXIF 2.32, tag 0x0112",
    bare="max",
    from_header=lambda header: float(header.orientation),
)
