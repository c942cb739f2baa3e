"""Exact signatures: the same bytes, or the same pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from edittools.stream import images


def of_bytes(data: images.Buffer) -> bytes:
    """sha256 of a file as it is."""
    return hashlib.sha256(data).digest()


def of_pixels(pixels: np.ndarray) -> bytes:
    """sha256 of decoded, oriented RGB pixels and their shape: equal for a PNG and a BMP of one picture.

    A JPEG's pixels are its decoder's: with another libjpeg they may differ by a level.
    """
    state = hashlib.sha256(repr(pixels.shape).encode())
    state.update(np.ascontiguousarray(pixels).data)
    return state.digest()
