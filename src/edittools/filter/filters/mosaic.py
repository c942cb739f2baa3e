"""Mosaics: regions made of squares of one colour (pixelation)."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.filter.content import CONTENT

BOUND = 0.0055
_STEP = 4  # levels: what counts as a step between two squares
_RUN = 6  # pixels of a square's side that have to show the step together
_WINDOW = 48  # pixels
_PLAIN = 0.7  # share of the window that has to be flat or part of a step
_EDGES = 0.006  # share of the window on steps, in each direction


def measure(gray: np.ndarray) -> float:
    """Share of the image inside pixelated regions, 0 to 1.

    A pixel is part of a square's side where the image steps across one pixel boundary, is flat two and three
    pixels away on both sides, and does so over a run along that boundary. A window is pixelated where most of it is
    flat or on such sides, and there are sides in both directions. Squares of fewer than 6 pixels are
    missed, and of fewer than 10 after strong JPEG compression.
    """
    height, width = gray.shape
    if min(height, width) < _WINDOW:
        return 0.0
    pixels = gray.astype(np.int16)
    upright, flat_x = _sides(pixels)
    level, flat_y = (part.T for part in _sides(np.ascontiguousarray(pixels.T)))
    plain = (flat_x | _wider(upright)) & (flat_y | _wider(level.T).T)
    found = (_window_mean(plain) >= _PLAIN) & (_window_mean(upright) >= _EDGES) & (_window_mean(level) >= _EDGES)
    return float(found.mean())


def _sides(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels end in an upright side of a square, and which are flat across."""
    step = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:]))
    pad = np.pad(step, ((0, 0), (3, 3)), mode="edge")
    width = pixels.shape[1]
    near = [pad[:, 3 + k : 3 + k + width] for k in (-3, -2, 2, 3)]
    beside = np.maximum(np.maximum(near[0], near[1]), np.maximum(near[2], near[3]))
    alone = (step >= _STEP) & (step > 3 * beside)
    run = alone.copy()
    for k in range(1, _RUN):
        run[:-k] &= alone[k:]
        run[-k:] = False
    side = run.copy()
    for k in range(1, _RUN):
        side[k:] |= run[:-k]
    return side, step <= 3


def _wider(sides: np.ndarray) -> np.ndarray:
    """With the pixels next to them, where JPEG leaves ringing."""
    wide = sides.copy()
    for k in (1, 2):
        wide[:, k:] |= sides[:, :-k]
        wide[:, :-k] |= sides[:, k:]
    return wide


def _window_mean(mask: np.ndarray) -> np.ndarray:
    """Share that is set in the windows, at every fourth pixel."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int32), axis=1, out=total[1:, 1:])
    inside = total[_WINDOW::4, _WINDOW::4]
    rows, columns = inside.shape
    before = total[:-_WINDOW:4, :-_WINDOW:4][:rows, :columns]
    above = total[:-_WINDOW:4, _WINDOW::4][:rows, :columns]
    left = total[_WINDOW::4, :-_WINDOW:4][:rows, :columns]
    return (inside - above - left + before) / (_WINDOW * _WINDOW)


FILTER = Filter(
    name="mosaic",
    help=f"Share of the image that is pixelated at most this; {BOUND} drops censored images.",
    unit="share of the image, 0 to 1",
    cost=30,
    group="People",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
