"""QR codes and barcodes."""

from __future__ import annotations

import numpy as np

from edittools.errors import missing_extra
from edittools.filter import Filter
from edittools.filter.content import CONTENT

BOUND = 0.0


def measure(gray: np.ndarray) -> float:
    """Share of the image under readable codes, 0 to 1: QR, Micro QR, Aztec, Data Matrix, PDF417, EAN, UPC, 128, 39.

    Only codes that decode count, so there are next to no false alarms; a code that is blurred, or whose narrow bars
    are about a pixel wide at a short side of 768, is missed. Formats without a checksum (ITF, Codabar) are not
    looked for.
    """
    try:
        import zxingcpp
    except ImportError:
        raise missing_extra("zxing-cpp", "content", "--qr") from None
    kinds = zxingcpp.barcode_formats_from_str(_KINDS)
    found = zxingcpp.read_barcodes(np.ascontiguousarray(gray), formats=kinds)
    scale = 1
    if not found and min(gray.shape) <= _SMALL:
        from PIL import Image

        image = Image.fromarray(gray)
        found = zxingcpp.read_barcodes(image.resize((2 * image.width, 2 * image.height)), formats=kinds)
        scale = 2
    share = 0.0
    for code in found:
        at = code.position
        corners = [at.top_left, at.top_right, at.bottom_right, at.bottom_left]
        doubled = sum(a.x * b.y - b.x * a.y for a, b in zip(corners, corners[1:] + corners[:1]))
        share += max(abs(doubled) / 2 / scale**2, 1) / gray.size  # a barcode may be found along one line only
    return min(share, 1.0)


_SMALL = 400  # pixels: images with shorter sides than this are looked at once more, twice as large
_KINDS = "QRCode,MicroQRCode,RMQRCode,Aztec,DataMatrix,PDF417,EAN13,EAN8,UPCA,UPCE,Code128,Code93,Code39"

FILTER = Filter(
    name="qr",
    help="Share under QR codes and barcodes at most this; 0 drops every image with one.",
    unit="share of the image, 0 to 1",
    cost=44,
    group="Overlays and marks",
    source="FireRed 2.2.3; the ZXing decoder",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
