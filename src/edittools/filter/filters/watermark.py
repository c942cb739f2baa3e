"""Watermarks that repeat over the whole image."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.stream.codec import Raster

RASTER = Raster(short_side=512, gray=True)
BOUND = 8.5
_LEAST_SHIFT = 24  # pixels: texture repeats at less
_NEAR = 8  # pixels around a peak that belong to it


def measure(gray: np.ndarray) -> float:
    """How far the two best repetitions of the fine detail stand out: about 5 in photographs, 7 to 40 with tiled marks.

    High-pass detail, made equally strong everywhere so that a faint mark counts as much as an edge, is correlated
    with itself. A tiled mark gives isolated peaks at the distances of its tiles; the score is the mean height of the
    two highest over their surroundings, in standard deviations. Brickwork and blinds repeat too, and are the false
    alarms; one in four marks is too faint or repeats too seldom. A single mark in a corner is not found here.
    """
    if min(gray.shape) < 4 * _LEAST_SHIFT:
        return 0.0
    peaks = _peaks(np.clip(_detail(gray), -1, 1))
    row, column = np.unravel_index(int(peaks.argmax()), peaks.shape)
    first = float(peaks[row, column])
    middle = peaks.shape[0] // 2
    peaks[max(0, row - _NEAR) : row + _NEAR + 1, max(0, column - _NEAR) : column + _NEAR + 1] = 0
    if column <= _NEAR:  # the same shift with the other sign
        mirrored = 2 * middle - row
        peaks[max(0, mirrored - _NEAR) : mirrored + _NEAR + 1, : _NEAR + 1] = 0
    return max(0.0, (first + float(peaks.max())) / 2)


def _detail(gray: np.ndarray) -> np.ndarray:
    """The image less its neighbourhood, over the local contrast."""
    y = gray.astype(np.float32)
    high = y - _blur(y, 4)
    strength = np.sqrt(np.maximum(_blur(high * high, 8), 0))
    return high / (strength + 2)


def _blur(y: np.ndarray, radius: int) -> np.ndarray:
    """Mean over squares."""
    for _ in range(2):  # down, and across
        padded = np.pad(y, ((radius + 1, radius), (0, 0)), mode="edge")
        total = np.cumsum(padded, axis=0, dtype=np.float64)
        y = ((total[2 * radius + 1 :] - total[: -2 * radius - 1]) / (2 * radius + 1)).astype(np.float32).T
    return y


def _peaks(detail: np.ndarray) -> np.ndarray:
    """Autocorrelation less its neighbourhood, in standard deviations, at shifts of up to half the sides.

    Rows are shifts down from minus to plus half the height, columns shifts to the right. Small shifts are 0.
    """
    height, width = detail.shape
    padded = [2 * height, 2 * width]
    spectrum = np.fft.rfft2(detail, padded)
    power = np.fft.irfft2(spectrum.real**2 + spectrum.imag**2, padded)
    down, right = np.arange(-(height // 2), height // 2 + 1), np.arange(width // 2 + 1)
    overlap = (height - np.abs(down))[:, None] * (width - right)[None]
    found = (power[down][:, right] / overlap).astype(np.float32)
    found -= _blur(found, 5)
    near = (np.abs(down)[:, None] < _LEAST_SHIFT) & (right[None] < _LEAST_SHIFT)
    spread = float(found[~near].std())
    found[near] = 0
    return found / spread if spread > 1e-9 else np.zeros_like(found)


FILTER = Filter(
    name="watermark",
    help=f"Strength of a mark tiled over the image at most this; {BOUND} drops most.",
    unit="standard deviations, 0 to about 40",
    cost=58,
    group="Overlays and marks",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=RASTER,
    measure=measure,
)
