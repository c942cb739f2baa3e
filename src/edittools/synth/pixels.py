"""Exact pixel arithmetic: integers with explicit rounding, so that every machine gets the same bytes.

Images are uint8 HxWx3 in sRGB values; nothing is linearised, as in the image editors people know.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

RAMP = np.arange(256, dtype=np.int64)


def to_byte(values: np.ndarray) -> np.ndarray:
    """Clip integers to 0..255."""
    return np.clip(values, 0, 255).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """Rec. 601 luma, uint8 HxW: 0.299 R + 0.587 G + 0.114 B, rounded half up."""
    r, g, b = (image[..., c].astype(np.int32) for c in range(3))
    return ((299 * r + 587 * g + 114 * b + 500) // 1000).astype(np.uint8)


def gray(image: np.ndarray) -> np.ndarray:
    """Luma in all three channels."""
    return np.repeat(luma(image)[..., None], 3, axis=-1)


@lru_cache(maxsize=64)
def gamma_table(numerator: int, denominator: int) -> np.ndarray:
    """uint8 (256,): 255 (i/255)^(numerator/denominator), rounded half up."""
    return np.floor(255 * (RAMP / 255) ** (numerator / denominator) + 0.5).astype(np.uint8)


@lru_cache(maxsize=64)
def line_table(numerator: int, denominator: int, pivot: int = 0) -> np.ndarray:
    """uint8 (256,): pivot + (i - pivot) numerator / denominator, rounded half up and clipped."""
    return to_byte(pivot + ((RAMP - pivot) * numerator * 2 + denominator) // (2 * denominator))


def per_channel(image: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Send each channel through its own table."""
    return np.stack([table[image[..., c]] for c, table in enumerate((red, green, blue))], axis=-1)


def saturation(image: np.ndarray, numerator: int, denominator: int) -> np.ndarray:
    """Scale every channel's distance from the luma, rounded half up and clipped."""
    middle = luma(image).astype(np.int32)[..., None]
    spread = (image.astype(np.int32) - middle) * numerator
    return to_byte(middle + (2 * spread + denominator) // (2 * denominator))


def blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """alpha (0..255, broadcast to the image) of `over` on `under`, rounded half up."""
    weight = alpha.astype(np.int32)
    mixed = under.astype(np.int32) * (255 - weight) + over.astype(np.int32) * weight
    return ((mixed + 127) // 255).astype(np.uint8)


def gaussian(image: np.ndarray, radius: float) -> np.ndarray:
    """Pillow's Gaussian blur (three box passes); radius in pixels. Takes HxW or HxWx3."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def short_side(image: np.ndarray) -> int:
    return min(image.shape[:2])
