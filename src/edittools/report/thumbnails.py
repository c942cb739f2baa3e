"""Images inside an HTML file, as data: URIs, and the heat map of a difference."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from edittools.metrics import pixels

LONGEST_SIDE = 256
TINY_SIDE = 96
"""Up to this size an image is stored exactly (PNG) and shown with square pixels: a training run on 32 x 32
should be seen as it is, and JPEG's 8 x 8 blocks would be a quarter of it."""

HEAT_FULL = 64
"""Levels of 255 at which the heat map is brightest: larger errors are all gross."""

# Dark violet to pale yellow: lightness rises evenly, so it survives print and colour blindness.
HEAT = np.array([(13, 8, 35), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 200)], dtype=np.float64)


def is_tiny(image: np.ndarray) -> bool:
    return max(image.shape[:2]) <= TINY_SIDE


def data_uri(image: np.ndarray, longest: int = LONGEST_SIDE, quality: int = 85) -> str:
    """uint8 RGB as a data: URI; larger images are scaled down to `longest` pixels and stored as JPEG."""
    scaled = Image.fromarray(image)
    exact = is_tiny(image)
    if not exact:
        scaled.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return encoded_uri(scaled, exact, quality=quality)


def encoded_uri(image: Image.Image, exact: bool, **options: int) -> str:
    """An image in its own size as a data: URI: exactly (PNG), or as JPEG with these options."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", optimize=True, **options)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat_map(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The largest channel difference per pixel, black to pale yellow, in the truth's size."""
    if result.shape != truth.shape:
        result = pixels.resize(result, *truth.shape[:2])
    difference = np.abs(result.astype(np.int16) - truth.astype(np.int16)).max(axis=-1)
    position = np.arange(HEAT_FULL + 1) / HEAT_FULL * (len(HEAT) - 1)
    anchors = np.arange(len(HEAT))
    colours = np.column_stack([np.interp(position, anchors, channel) for channel in HEAT.T])
    return colours.round().astype(np.uint8)[np.minimum(difference, HEAT_FULL)]
