"""Motion between the frames of a pair: how much the background moves as a whole."""

from __future__ import annotations

import numpy as np

from edittools.filters import Filter
from edittools.filters.motion import RASTER, flow, foreground


def measure(source: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> float:
    """|mean(B)|: the length of the mean flow off the row's mask, in per cent of the picture's diagonal."""
    moved = flow(source, target)[~foreground(mask, source)]
    return float(np.linalg.norm(moved.mean(axis=0, dtype=np.float64))) if len(moved) else 0.0


FILTER = Filter(
    name="camera_motion",
    help="Length of the mean motion outside the row's mask, from source to target, at most this.",
    unit="per cent of the diagonal",
    cost=48,
    source="Step1X-Edit 3.1.1, with DIS flow (Kroeger 2016) for RAFT",
    bare="max",
    raster=RASTER,
    measure_pair=measure,
)
