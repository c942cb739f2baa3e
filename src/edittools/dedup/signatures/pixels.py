"""The same pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from edittools.dedup.signature import Signature
from edittools.stream import codec


def digest(data: codec.Buffer, max_pixels: int) -> bytes:
    """sha256 of decoded, oriented RGB pixels and their shape: equal for a PNG and a BMP of one image.

    A JPEG's pixels are its decoder's: with another libjpeg they may differ by a level.
    """
    pixels = codec.decode(data, codec.FULL, max_pixels)
    state = hashlib.sha256(repr(pixels.shape).encode())
    state.update(np.ascontiguousarray(pixels).data)
    return state.digest()


SIGNATURE = Signature("the same decoded pixels", digest=digest)
