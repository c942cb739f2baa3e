"""Motion between the frames of a pair: how much the foreground moves."""

import numpy as np

from edittools.filter import Filter
from edittools.filter.flow import RASTER
from edittools.filter.shared import FOREGROUND, RAFT


def measure(flow: np.ndarray, foreground: np.ndarray) -> float:
    """mean(|F|): the mean length of the flow on the foreground, in per cent of the image's diagonal."""
    moved = flow[foreground]
    return float(np.linalg.norm(moved, axis=1).mean(dtype=np.float64)) if len(moved) else 0.0


FILTER = Filter(
    name="motion",
    help="Mean length of the motion of the foreground (the row's mask, or --foreground), from source to target, at "
    "least this.",
    unit="per cent of the diagonal",
    cost=46,
    group="Pairs",
    source="Step1X-Edit 3.1.1, with --raft; without it DIS flow (Kroeger 2016)",
    raster=RASTER,
    measure_flow=measure,
    optional=(RAFT, FOREGROUND),
)
