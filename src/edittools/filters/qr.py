"""QR codes and barcodes."""

from __future__ import annotations

import numpy as np

from edittools.errors import missing_extra
from edittools.filters import Filter
from edittools.filters.content import CONTENT

BOUND = 0.0


def measure(gray: np.ndarray) -> float:
    """Share of the picture under readable codes, 0 to 1: QR, Micro QR, Aztec, Data Matrix, PDF417, EAN, UPC, 128, 39.

    Only codes that decode with a correct checksum count, so there are next to no false alarms; a code that is too
    small or too blurred to be read is missed. Formats without a checksum (ITF, Codabar) are not looked for.
    """
    try:
        import zxingcpp
    except ImportError:
        raise missing_extra("zxing-cpp", "content", "--qr") from None
    kinds = zxingcpp.barcode_formats_from_str(_KINDS)
    share = 0.0
    for code in zxingcpp.read_barcodes(np.ascontiguousarray(gray), formats=kinds):
        corners = [code.position.top_left, code.position.top_right, code.position.bottom_right, code.position.bottom_left]
        area = sum(a.x * b.y - b.x * a.y for a, b in zip(corners, corners[1:] + corners[:1]))
        share += max(abs(area) / 2, 1) / gray.size  # a barcode may be found along one line only
    return min(share, 1.0)


_KINDS = "QRCode,MicroQRCode,RMQRCode,Aztec,DataMatrix,PDF417,EAN13,EAN8,UPCA,UPCE,Code128,Code93,Code39"

FILTER = Filter(
    name="qr",
    help="Share under QR codes and barcodes at most this; 0 drops every picture with one.",
    unit="share of the picture, 0 to 1",
    source="FireRed 2.2.3; the ZXing decoder",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
