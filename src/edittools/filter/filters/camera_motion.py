"""Motion between the frames of a pair: how much the background moves as a whole."""

import numpy as np

from edittools.filter import Filter
from edittools.filter.flow import RASTER
from edittools.filter.shared import FOREGROUND, RAFT


def measure(flow: np.ndarray, foreground: np.ndarray) -> float:
    """|mean(B)|: the length of the mean flow on the background, in per cent of the image's diagonal."""
    moved = flow[~foreground]
    return float(np.linalg.norm(moved.mean(axis=0, dtype=np.float64))) if len(moved) else 0.0


FILTER = Filter(
    name="camera_motion",
    help="Length of the mean motion of the background (off the row's mask, or of --foreground), from source to target, "
    "at most this.",
    unit="per cent of the diagonal",
    cost=48,
    group="Pairs",
    source="Step1X-Edit 3.1.1, with --raft; without it DIS flow (Kroeger 2016)",
    bare="max",
    raster=RASTER,
    measure_flow=measure,
    optional=(RAFT, FOREGROUND),
)
