"""Collages: several images put side by side."""

from __future__ import annotations

import numpy as np

from edittools.filter import Filter
from edittools.filter.content import CONTENT, inner

BOUND = 0.38
_STEP = 6  # levels: what counts as a step across the line
_PARTS = 6  # of the span; the line has to be there in every one
_MARGIN = 0.08  # of the side: nearer to the edge is a border or a frame, not a panel


def measure(gray: np.ndarray) -> float:
    """How complete the best straight line across the whole image is, 0 (none) to 1 (a step all along).

    A line is one row or column boundary; it counts where the step across it stands out from the gradient beside it.
    The span is cut into parts, and the score is the mean of the weaker half of them: a horizon bends or is broken
    somewhere, the seam of two images is not. Uniform borders are cut off first.
    """
    top, bottom, left, right = inner(gray)
    body = gray[top:bottom, left:right].astype(np.int16)
    return max(_best_line(body), _best_line(body.T))


def _best_line(pixels: np.ndarray) -> float:
    """The best vertical line."""
    height, width = pixels.shape
    margin = max(4, int(width * _MARGIN))
    if width < 2 * margin + 8 or height < 4 * _PARTS:
        return 0.0
    step = np.abs(np.diff(pixels, axis=1))
    # Beside the line, two and three pixels away: JPEG leaves ringing next to a step.
    beside = np.maximum(np.maximum(step[:, 1:-5], step[:, :-6]), np.maximum(step[:, 5:-1], step[:, 6:]))
    here = np.maximum(step[:, 3:-3], np.abs(pixels[:, 5:-2] - pixels[:, 3:-4])[:, : step.shape[1] - 6])
    stands_out = (here > _STEP) & (here > 2 * beside)
    parts = np.stack([part.mean(axis=0) for part in np.array_split(stands_out, _PARTS)])
    weaker = np.sort(parts, axis=0)[: _PARTS // 2].mean(axis=0)
    inside = weaker[max(0, margin - 3) : max(1, width - 4 - margin)]
    return float(inside.max()) if inside.size else 0.0


FILTER = Filter(
    name="collage",
    help=f"Completeness of the straightest full-span seam at most this; {BOUND} drops collages.",
    unit="0 to 1",
    cost=37,
    group="Overlays and marks",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
