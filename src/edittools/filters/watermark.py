"""Watermarks that repeat over the whole picture."""

from __future__ import annotations

import numpy as np

from edittools.filters import Filter
from edittools.stream.images import Raster

BOUND = 0.1
_LEAST_SHIFT = 24  # pixels: texture repeats at less
_NEAR = 3  # pixels around a peak that belong to it

RASTER = Raster(short_side=512, gray=True)


def measure(gray: np.ndarray) -> float:
    """Height of the best repetition of the fine detail, 0 (none) to 1 (an exact tiling).

    High-pass detail, made equally strong everywhere, is correlated with itself; a tiled mark gives a peak at the
    distance of its tiles.
    """
    height, width = gray.shape
    if min(height, width) < 4 * _LEAST_SHIFT:
        return 0.0
    detail = _detail(gray)
    whole = _correlation(detail)
    return float(max(0.0, whole.max()))


def _detail(gray: np.ndarray) -> np.ndarray:
    """The picture less its neighbourhood, over the local contrast."""
    y = gray.astype(np.float32)
    high = y - _blur(y, 4)
    strength = np.sqrt(_blur(high * high, 8))
    return high / (strength + 2)


def _blur(y: np.ndarray, radius: int) -> np.ndarray:
    """Mean over squares."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(y, pad, mode="edge"), axis=axis, dtype=np.float64)
        size = y.shape[axis]
        upper = np.take(total, range(2 * radius + 1, 2 * radius + 1 + size), axis=axis)
        y = ((upper - np.take(total, range(size), axis=axis)) / (2 * radius + 1)).astype(np.float32)
    return y


def _correlation(detail: np.ndarray) -> np.ndarray:
    """Autocorrelation coefficients at shifts of up to half the sides, small shifts left out."""
    height, width = detail.shape
    padded = [1 << (2 * side - 1).bit_length() for side in detail.shape]
    spectrum = np.fft.rfft2(detail, padded)
    power = np.fft.irfft2(np.abs(spectrum) ** 2, padded)
    rows, columns = height // 2, width // 2
    shifts_y = np.arange(-rows, rows + 1)
    shifts_x = np.arange(0, columns + 1)
    found = power[shifts_y][:, shifts_x]
    overlap = (height - np.abs(shifts_y))[:, None] * (width - shifts_x)[None]
    found = found / overlap / (power[0, 0] / detail.size + 1e-9)
    near = (np.abs(shifts_y)[:, None] < _LEAST_SHIFT) & (shifts_x[None] < _LEAST_SHIFT)
    found[near] = 0
    return found


FILTER = Filter(
    name="watermark",
    help=f"Strength of a mark tiled over the picture at most this; {BOUND} drops most.",
    unit="correlation, 0 to 1",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=RASTER,
    measure=measure,
)
