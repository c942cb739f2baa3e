"""Samples of more than 8 bits as 8 bits of sRGB.

littleCMS converts 8 bits through Pillow. That is not enough where the profile's curve is not much like that of sRGB:
of a linear one half of what can be seen lies below level 55 of 255. So what has more bits is converted here, with all
of them, if the profile has curves and primaries (three of them, or one of grey); one with tables of colours is
littleCMS's, of 8 bits, for such tables are made for levels that are evenly seen.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

import numpy as np

from edittools.stream import colour, spaces

TOP = 65535  # of 16 bits
_WHITES = (1, 255, TOP)  # of floating point
_WHOLE_WHITES = (255, TOP, 2**32 - 1)
_ROWS = 64  # converted at a time

Conversion = Callable[[np.ndarray], np.ndarray]
"""uint16 HxW or HxWx3 -> uint8 HxWx3, sRGB."""


def levels(array: np.ndarray, top: int = 255) -> np.ndarray:
    """Whole numbers or floating point as 0 to `top` (255 or 65535), rounded.

    Floating point has no fixed white. It is the least of 1, 255 and 65535 that 99 of 100 pixels do not exceed
    16-fold: highlights of an image whose white is 1 do not reach that, and one whose white is 255 is not that dark.
    White of 16 bits is 65535; other whole numbers are often those of 8 or 16 bits: the least that they do not exceed.
    """
    kind = np.uint8 if top == 255 else np.uint16
    if array.dtype == kind:
        return array
    if array.dtype.kind == "f":
        known = np.nan_to_num(array.astype(np.float64 if array.itemsize > 4 else np.float32, copy=False), nan=0.0)
        most = float(np.percentile(known, 99)) / 16 if known.size else 0.0
        white = next((white for white in _WHITES if most <= white), _WHITES[-1])
        rounded: np.ndarray = np.rint(np.clip(known / known.dtype.type(white), 0, 1) * top)
        return rounded.astype(kind)
    unsigned = array.dtype.kind == "u" and array.itemsize <= 2
    of_type = TOP if array.itemsize == 2 else 255
    largest = of_type if unsigned else int(array.max()) if array.size else 0
    white = next(white for white in _WHOLE_WHITES if largest <= white)
    wide: np.ndarray = np.clip(array, 0, white).astype(np.uint64)
    return ((wide * top + white // 2) // white).astype(kind)


def conversion(profile: bytes | None, mode: str) -> Conversion | None:
    """What converts 16 bits of mode RGB or L with this profile; None where 8 bits do, or nothing has to be done."""
    if profile is None or mode not in ("RGB", "L") or colour.conversion(profile, mode) is None:
        return None
    return _conversion(profile)


@functools.lru_cache(16)
def _conversion(profile: bytes) -> Conversion | None:
    try:
        tags = _tags(profile)
        if profile[20:24] != b"XYZ " or any(name.startswith((b"A2B", b"D2B")) for name in tags):
            return None
        if profile[16:20] == b"GRAY":
            return functools.partial(_convert, [_curve(tags[b"kTRC"])], None)
        curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
        xyz = [np.frombuffer(tags[name][8:20], ">i4") / 65536 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    except (KeyError, ValueError, struct.error, IndexError):
        return None
    return functools.partial(_convert, curves, np.linalg.inv(spaces.srgb_colorants()) @ np.column_stack(xyz))


def _convert(curves: list[np.ndarray], matrix: np.ndarray | None, array: np.ndarray) -> np.ndarray:
    """By the light of every level of each channel, and from the colours of the profile's primaries to those of sRGB."""
    made = np.empty((*array.shape[:2], 3), np.uint8)
    three = np.broadcast_to(array[:, :, None], made.shape) if array.ndim == 2 else np.broadcast_to(array, made.shape)
    for first in range(0, len(array), _ROWS):
        rows = three[first : first + _ROWS]
        light = np.stack([curves[k % len(curves)][rows[:, :, k]] for k in range(3)], axis=-1)
        if matrix is not None:
            light = light @ matrix.T
        made[first : first + _ROWS] = _shown()[np.rint(np.clip(light, 0, 1) * TOP).astype(np.uint16)]
    return made


@functools.cache
def _shown() -> np.ndarray:
    """The level of sRGB, 8 bits, of each of 65536 amounts of light."""
    light = np.arange(TOP + 1) / TOP
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    shown: np.ndarray = np.rint(encoded * 255).astype(np.uint8)
    return shown


# ---------------------------------------------------------------- ICC.1:2022


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The values of a profile by their names (7.3). Raises struct.error and ValueError for a damaged table."""
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 200:
        raise ValueError(f"{count} tags")
    places = (struct.unpack_from(">4sII", profile, 132 + 12 * k) for k in range(count))
    return {name: profile[at : at + size] for name, at, size in places}


def _curve(tag: bytes) -> np.ndarray:
    """The light of each of 65536 levels, mostly 0 to 1: of points or a power (10.6), or of parameters (10.18). Raises
    ValueError for none."""
    with np.errstate(all="ignore"):
        light = _light(tag)
    if not np.isfinite(light).all():
        raise ValueError("a curve without end")
    return light


def _light(tag: bytes) -> np.ndarray:
    level = np.arange(TOP + 1) / TOP
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return level
        points = np.frombuffer(tag, ">u2", count, 12).astype(np.float64)
        if count == 1:
            power: np.ndarray = level ** (points[0] / 256)
            return power
        return np.interp(level, np.linspace(0, 1, count), points / TOP)
    if tag[:4] != b"para":
        raise ValueError(f"a curve of type {tag[:4]!r}")
    (kind,) = struct.unpack_from(">H", tag, 8)
    wanted = (1, 3, 4, 5, 7)[kind]
    g, *rest = (np.frombuffer(tag, ">i4", wanted, 12) / 65536).tolist()
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        a, b = rest[:2]
        d, e = (-b / a if a else 0.0), (rest[2] if kind == 2 else 0.0)
        f = e  # below: no light but that
    elif kind >= 3:
        a, b, c, d, e, f = (*rest, 0.0, 0.0)[:6]
    above = np.maximum(a * level + b, 0) ** g + e
    light: np.ndarray = np.where(level >= d, above, c * level + f)
    return light
