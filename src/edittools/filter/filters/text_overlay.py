"""Text over the image."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edittools.filter import Filter
from edittools.metrics.ocr import open_engine
from edittools.stream.codec import Raster

RASTER = Raster(short_side=512)
BOUND = 0.016
_LEAST_SCORE = 0.6  # of a box, 0 to 1
_SLIM = 2.0  # a line of text is at least this much longer than high
_HIGHEST = 0.2  # of the image's shorter side; the detector also boxes animals, as one huge letter
_own = threading.local()  # an engine for each thread, as it keeps state between calls; and what it found last


def lines(pixels: np.ndarray) -> np.ndarray:
    """Corners (n x 4 x 2, x and y) of the lines of text in HxWx3, by the detector of PP-OCR."""
    if min(pixels.shape[:2]) < 16:
        return np.zeros((0, 4, 2))
    if getattr(_own, "pixels", None) is not pixels:  # two filters ask about the same raster
        found = _engine()(np.ascontiguousarray(pixels[..., ::-1]), use_det=True, use_cls=False, use_rec=False)
        corners = np.zeros((0, 4, 2)) if found.boxes is None else np.asarray(found.boxes, np.float64)
        scores = np.zeros(0) if found.boxes is None else np.asarray(found.scores, np.float64)
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)[:, :2]
        short, long = sides.min(axis=1), sides.max(axis=1)
        kept = (scores >= _LEAST_SCORE) & (long >= _SLIM * short) & (short <= _HIGHEST * min(pixels.shape[:2]))
        _own.pixels, _own.lines = pixels, corners[kept]
    return _own.lines


def covered(corners: np.ndarray, pixels: np.ndarray) -> float:
    """Share of the image under the boxes."""
    x, y = corners[..., 0], corners[..., 1]
    doubled = np.abs((x * np.roll(y, 1, axis=1) - y * np.roll(x, 1, axis=1)).sum(axis=1))
    return min(1.0, float(doubled.sum()) / 2 / (pixels.shape[0] * pixels.shape[1]))


def _engine() -> Any:
    if not hasattr(_own, "engine"):
        _own.engine = open_engine("--text-overlay", **{"Det.limit_type": "max", "Det.limit_side_len": 768})
    return _own.engine


def measure(pixels: np.ndarray) -> float:
    """Share of the image under lines of text, 0 to 1; signs in the scene count like captions laid over it."""
    return covered(lines(pixels), pixels)


FILTER = Filter(
    name="text_overlay",
    help=f"Share under lines of text at most this; {BOUND} drops captions and banners.",
    unit="share of the image, 0 to 1",
    cost=250,
    group="Overlays and marks",
    source="FireRed 2.2.3; the PP-OCR detector through RapidOCR",
    bare="max",
    raster=RASTER,
    measure=measure,
)
