"""Pillow's box filter for images that lose less than half of their sides: the same pixels in half the time.

A JPEG file is decoded at the scale next above its raster, so that a pixel of the raster is a copy of one pixel, or the
mean of two, rounded up: first along the rows, then along the columns. (Pillow 13 begins with the columns where the
image is more than twice as high as wide, or is not scaled alike in both directions: those are not for us.)
"""

from __future__ import annotations

import functools

import numpy as np

_SEVEN_BITS = np.uint32(0xFEFEFEFE)  # of each byte, the upper


def fits(pixels: np.ndarray, width: int, height: int) -> bool:
    """Whether `shrink` is for this, if the aspect ratio is kept."""
    before_height, before_width = map(int, pixels.shape[:2])
    return (
        width < before_width < 2 * width and height < before_height < 2 * height and before_height <= 2 * before_width
    )


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """HxWx4 (RGB and a byte that is ignored) uint8, C order, as HxWx3 of a size that `fits`; not to be written to."""
    from PIL import Image

    words = pixels.view(np.uint32)[..., 0]  # a pixel each
    rows, columns = words.shape
    one, other = _places(columns, width)
    words = _means(words.take(one, axis=1, mode="clip"), words.take(other, axis=1, mode="clip"))
    one, other = _places(rows, height)
    words = _means(words[one], words[other])
    # Pillow leaves out every fourth byte three times faster than numpy.
    packed = Image.frombuffer("RGBX", (width, height), words, "raw", "RGBX", 0, 1).tobytes("raw", "RGB")
    return np.frombuffer(packed, np.uint8).reshape(height, width, 3)


def _means(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(a + b + 1) // 2 of the bytes in words: a | b less half of a ^ b, which never borrows from the next byte.

    `a` becomes the result.
    """
    half = a ^ b
    half &= _SEVEN_BITS
    half >>= 1
    a |= b
    a -= half
    return a


@functools.lru_cache(maxsize=64)
def _places(length: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """The two of `length` pixels whose mean each pixel is: neighbours, or twice the same."""
    scale = length / out
    centre = (np.arange(out) + 0.5) * scale
    low = np.maximum((centre - 0.5 * scale + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + 0.5 * scale + 0.5).astype(np.int64), length)
    tap = low[:, None] + np.arange(4)
    share = (tap - centre[:, None] + 0.5) * (1 / scale)
    inside = (tap < high[:, None]) & (share > -0.5) & (share <= 0.5)  # the pixels whose centres lie in the window
    one = low + inside.argmax(axis=1)
    return one, one + (inside.sum(axis=1) == 2)
