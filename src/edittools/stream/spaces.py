"""ICC profiles of colour spaces that files name without one, by numbers or in EXIF.

| what a file says | its space |
|---|---|
| code points of ITU-T H.273 (PNG's cICP, `nclx` of AVIF and HEIC) | those primaries, that curve; unspecified: sRGB's |
| ... a camera's curve of video (BT.709, BT.601, SMPTE 240M, BT.2020) | that of sRGB, by which such images are shown |
| ... PQ | 203 cd/m2, the reference white of ITU-R BT.2408, is white; what is brighter is white, too |
| ... HLG | shown at 1000 cd/m2 (ITU-R BT.2100: a system gamma of 1.2, of each channel), its white as that of PQ |
| PNG's gAMA and cHRM | that power and those primaries; without one of them sRGB's |
| EXIF of a JPEG file: uncalibrated, and interoperability `R03` (DCF 2.0) | Adobe RGB (1998) |
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

import numpy as np

from edittools.stream import ifd

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_BT709 = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {  # ITU-T H.273, table 2
    1: _BT709,
    2: _BT709,  # unspecified
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_REFERENCE_WHITE = 203.0
_EXIF, _COLOUR_SPACE, _INTEROPERABILITY, _INDEX = 0x8769, 0xA001, 0xA005, 1

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def of_code_points(primaries: int, transfer: int, full_range: bool = True) -> bytes | None:
    """The profile of a colour space of ITU-T H.273; empty for sRGB, None for what has no such meaning."""
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    curve = _TRANSFERS[transfer]
    if curve is _srgb and full_range and _PRIMARIES[primaries] == _BT709:
        return b""
    return _of_code_points(primaries, transfer, full_range)


@functools.lru_cache(64)
def _of_code_points(primaries: int, transfer: int, full_range: bool) -> bytes | None:
    levels = np.arange(256) / 255
    if not full_range:
        levels = np.clip((levels * 255 - 16) / 219, 0, 1)
    return _profile(_PRIMARIES[primaries], _TRANSFERS[transfer](levels))


@functools.lru_cache(64)
def of_gamma(gamma: float | None, chromaticities: Chromaticities | None) -> bytes | None:
    """The profile of levels that are light to the power of 1 / `gamma`; empty for sRGB, None for no colours."""
    if gamma is not None and not 0.1 <= gamma <= 10:
        gamma = None
    if chromaticities is not None and np.abs(np.subtract(chromaticities, _BT709)).max() < 0.001:
        chromaticities = None
    # sRGB itself is written down as 1/2.2 for readers that know no other curve (PNG, third edition, 11.3.2.5).
    if chromaticities is None and (gamma is None or abs(gamma * 2.2 - 1) < 0.01):
        return b""
    levels = np.arange(256) / 255
    return _profile(chromaticities or _BT709, _srgb(levels) if gamma is None else levels ** (1 / gamma))


def of_exif(data: bytes) -> bytes | None:
    """The profile of Adobe RGB where EXIF says so; None where it does not."""
    if b"R03" not in data:
        return None
    data = data.removeprefix(b"Exif\0\0")
    for place in ifd.read(data, (_EXIF,)).get(_EXIF, ())[:1]:
        found = ifd.read(data, (_COLOUR_SPACE, _INTEROPERABILITY), place)
        for inner in found.get(_INTEROPERABILITY, ())[:1]:
            index = ifd.read(data, (_INDEX,), inner).get(_INDEX, (b"",))[:1]
            if found.get(_COLOUR_SPACE) == (0xFFFF,) and index and index[0][:3] == b"R03":
                return _adobe_rgb()
    return None


@functools.cache
def _adobe_rgb() -> bytes | None:
    return _profile(_ADOBE_RGB, (np.arange(256) / 255) ** (563 / 256))


# ---------------------------------------------------------------- curves: from levels to light, both 0 to 1


def _srgb(level: np.ndarray) -> np.ndarray:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def _power(exponent: float, scale: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda level: scale * level**exponent


def _pq(level: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, table 4."""
    root = level ** (32 / 2523)
    light = np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)
    return 10_000 * light ** (16384 / 2610) / _REFERENCE_WHITE


def _hlg(level: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
    return 1000 * scene**1.2 / _REFERENCE_WHITE


_TRANSFERS = {  # ITU-T H.273, table 3; without 9 and 10, which are logarithmic
    **dict.fromkeys((1, 2, 6, 7, 11, 12, 13, 14, 15), _srgb),
    4: _power(2.2),
    5: _power(2.8),
    8: _power(1.0),
    16: _pq,
    17: _power(2.6, 52.37 / 48),
    18: _hlg,
}


# ---------------------------------------------------------------- ICC


def _profile(chromaticities: Chromaticities, light: np.ndarray) -> bytes | None:
    """A profile of three primaries, and of the light of every level of 8 bits (ICC.1:2022, 7 to 10; F.3)."""
    colorants = _colorants(chromaticities)
    if colorants is None:
        return None
    curve = np.rint(np.clip(light, 0, 1) * 65535).astype(">u2")
    values = [_xyz(_D50), *(_xyz(column) for column in colorants.T)]
    values.append(b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + curve.tobytes())
    tags = [(b"wtpt", 0), (b"rXYZ", 1), (b"gXYZ", 2), (b"bXYZ", 3), (b"rTRC", 4), (b"gTRC", 4), (b"bTRC", 4)]
    at = 132 + 12 * len(tags)
    places = [at + sum(len(value) for value in values[:k]) for k in range(len(values))]
    table = b"".join(struct.pack(">4sII", name, places[k], len(values[k])) for name, k in tags)
    body = struct.pack(">I", len(tags)) + table + b"".join(values)
    head = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (head + _xyz(_D50)[8:]).ljust(128, b"\0") + body


@functools.cache
def srgb_colorants() -> np.ndarray:
    """The XYZ of the primaries of sRGB as columns, seen under D50."""
    found = _colorants(_BT709)
    assert found is not None
    return found


def _xyz(values: np.ndarray) -> bytes:
    fixed: bytes = np.rint(values * 65536).astype(">i4").tobytes()
    return b"XYZ \0\0\0\0" + fixed


def _colorants(chromaticities: Chromaticities) -> np.ndarray | None:
    """The XYZ of the primaries as columns, seen under D50 (Bradford); None where they span no colours."""
    xy = np.array(chromaticities, np.float64).reshape(4, 2)
    xyz = np.column_stack([xy, 1 - xy.sum(axis=1)])
    if xy[0, 1] < 0.01 or abs(np.linalg.det(xyz[1:])) < 0.001:
        return None
    white = xyz[0] / xy[0, 1]
    scaled = xyz[1:].T * np.linalg.solve(xyz[1:].T, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ scaled
    return adapted
