"""Privacy masks: patches that were filled with a colour or blurred."""

from __future__ import annotations

from typing import Any

import numpy as np

from edittools.filter import Filter
from edittools.filter.content import CONTENT, inner
from edittools.opencv import opencv

BOUND = 0.014
_LEAST = 0.006  # share of the image: smaller patches do not count
_EVEN = 5  # levels that a filled patch may span in 5x5 pixels (JPEG)
_LEVELS = (1.0, 1.5, 2.2, 3.2, 4.5)  # of fine detail, below which a blurred patch may lie
_RING = 12  # pixels around a patch that it is compared with
_FIT = 0.92  # intersection over union with its rectangle or ellipse


def measure(gray: np.ndarray) -> float:
    """Share of the image under patches that were filled or blurred, 0 to 1.

    A patch is a connected region without fine detail (one level for a filled one, smooth for a blurred one) whose
    outline is a rectangle or an ellipse. Sky and soft backgrounds are smooth too, but seldom of such outlines. One in
    four is missed: patches of other outlines, and blur over what was soft before.
    """
    if min(gray.shape) < 32:
        return 0.0
    cv2 = opencv("--privacy-mask")
    top, bottom, left, right = inner(gray)
    body = np.ascontiguousarray(gray[top:bottom, left:right])
    covered = np.zeros(body.shape, bool)
    square = np.ones((5, 5), np.uint8)
    span = cv2.dilate(body, square) - cv2.erode(body, square)
    _add_patches(cv2, covered, span <= _EVEN, body.astype(np.float32), _filled)
    fine = cv2.blur(np.abs(cv2.Laplacian(body.astype(np.float32), cv2.CV_32F)), (9, 9))
    for level in _LEVELS:
        _add_patches(cv2, covered, fine <= level, fine, _blurred)
    return float(covered.sum()) / gray.size


def _filled(inside: np.ndarray, around: np.ndarray) -> bool:
    """Of the levels of a patch and of its surroundings: a step nearly all around."""
    return bool((np.abs(around - np.median(inside)) > 12).mean() >= 0.75)


def _blurred(inside: np.ndarray, around: np.ndarray) -> bool:
    """Of the fine detail of a patch and of its surroundings: there is some nearly all around."""
    return bool(np.quantile(around, 0.25) > 2 * max(1.0, float(np.median(inside))))


def _add_patches(cv2: Any, covered: np.ndarray, mask: np.ndarray, values: np.ndarray, differs: Any) -> None:
    """Cover the components of the mask that are rectangles or ellipses and differ from what is around them."""
    part = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    part = cv2.morphologyEx(part, cv2.MORPH_OPEN, np.ones((11, 11), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=4)
    height, width = mask.shape
    for k in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[k])
        if area < _LEAST * mask.size or min(w, h) < 14 or w > 0.9 * width or h > 0.9 * height:
            continue
        if not _fits(cv2, labels[y : y + h, x : x + w] == k):
            continue
        y0, x0 = max(0, y - _RING), max(0, x - _RING)
        window = (slice(y0, y + h + _RING), slice(x0, x + w + _RING))
        own = (labels[window] == k).astype(np.uint8)
        wide, wider = (
            cv2.dilate(own, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) for size in (13, 2 * _RING + 1)
        )
        around = values[window][(wider > 0) & (wide == 0)]
        if around.size and differs(values[window][own > 0], around):
            covered[window] |= wide > 0


def _fits(cv2: Any, part: np.ndarray) -> bool:
    """Whether the region is nearly its bounding box, or nearly the ellipse in it."""
    h, w = part.shape
    if part.mean() >= _FIT:
        return True
    ellipse = np.zeros(part.shape, np.uint8)
    cv2.ellipse(ellipse, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 1, -1)
    both = int((part & (ellipse > 0)).sum())
    return both >= _FIT * int((part | (ellipse > 0)).sum())


FILTER = Filter(
    name="privacy_mask",
    help=f"Share under filled or blurred patches at most this; {BOUND} drops most.",
    unit="share of the image, 0 to 1",
    cost=93,
    group="People",
    source="FireRed 2.2.3 (which names no method: ours)",
    bare="max",
    raster=CONTENT,
    measure=measure,
)
