"""What the detectors of unwanted content share: the raster they look at, and what of an image they leave out."""

from __future__ import annotations

import numpy as np

from edittools.stream.codec import Raster

# Fine enough for the marks that people put on images, small enough for a crawl. Equal rasters share one decode.
CONTENT = Raster(short_side=768, gray=True)


def inner(gray: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the image without its uniform borders, as slices take them.

    A border is a run of rows (or columns) from the edge that all have the colour of the first one, and that ends
    in a step along most of its length: an even sky has no such end.
    """
    top = bottom = left = right = 0
    height, width = gray.shape
    for _ in range(2):  # bars above and below first, then beside; once more for a frame
        body = gray[top : height - bottom, left : width - right]
        top += _border(body)
        bottom += _border(body[::-1])
        body = gray[top : height - bottom, left : width - right]
        left += _border(body.T)
        right += _border(body.T[::-1])
    return top, height - bottom, left, width - right


_EVEN = 10.0  # levels: how far a border's pixels may be from its colour (JPEG leaves ringing)
_STEP = 10.0  # levels: what counts as an end
_SPAN = 0.5  # share of the border's length that has to end in a step
_MOST = 0.45  # share of the image that one border may take


def _border(rows: np.ndarray) -> int:
    """How many of the first rows are a border."""
    height, width = rows.shape
    most = int(height * _MOST)
    if most < 2 or width < 8:
        return 0
    colour = float(np.median(rows[0]))
    part = rows[: most + 4].astype(np.float32)
    away = np.abs(part - colour)
    # The 98% quantile: a few pixels of dirt or ringing do not end a border.
    even = np.partition(away, int(width * 0.98) - 1, axis=1)[:, int(width * 0.98) - 1] <= _EVEN
    count = int(np.argmin(even)) if not even.all() else len(even)
    if not count or count > most:
        return 0
    # Against the last row of the border, so that an even gradient, which leaves its first colour slowly, has no end.
    beyond = np.abs(part[count : count + 3] - part[count - 1]).max(axis=0)
    return count if float((beyond > _STEP).mean()) >= _SPAN else 0
