"""Motion between the frames of a pair: how much the foreground moves."""

from __future__ import annotations

import threading

import numpy as np

from edittools.errors import RowError
from edittools.filters import Filter
from edittools.filters.content import opencv
from edittools.stream.images import Raster

RASTER = Raster(short_side=384, gray=True)
_last = threading.local()  # the flow that was found last, for the filter of the background


def flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where every pixel of the source goes, HxWx2 (x, y), in per cent of the diagonal; DIS flow (OpenCV)."""
    if source.shape != target.shape:
        raise RowError("source and target differ in size", f"{_size(source)} and {_size(target)}")
    if getattr(_last, "pair", (None, None)) != (id(source), id(target)):
        cv2 = opencv("--motion")
        height, width = source.shape
        # Patches are 8 pixels wide, and coarser levels halve the sides: small pictures are continued at the edge.
        pad = [(0, max(0, 64 - side)) for side in source.shape]
        engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        found = engine.calc(*(np.ascontiguousarray(np.pad(item, pad, mode="edge")) for item in (source, target)), None)
        _last.flow = found[:height, :width] * (100 / float(np.hypot(height, width)))
        _last.pair, _last.kept = (id(source), id(target)), (source, target)  # kept, so that no other has their ids
    return _last.flow


def foreground(mask: np.ndarray | None, source: np.ndarray) -> np.ndarray:
    """Where the row's mask is white. Raises RowError without one."""
    if mask is None:
        raise RowError("no mask picture")
    if mask.shape != source.shape:
        raise RowError("source and mask differ in size", f"{_size(source)} and {_size(mask)}")
    return mask > 127


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def measure(source: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> float:
    """mean(|F|): the mean length of the flow on the foreground, in per cent of the picture's diagonal."""
    moved = flow(source, target)[foreground(mask, source)]
    return float(np.linalg.norm(moved, axis=1).mean(dtype=np.float64)) if len(moved) else 0.0


FILTER = Filter(
    name="motion",
    help="Mean length of the motion of what the row's mask shows, from source to target, at least this.",
    unit="per cent of the diagonal",
    cost=46,
    source="Step1X-Edit 3.1.1, with DIS flow (Kroeger 2016) for RAFT",
    raster=RASTER,
    measure_pair=measure,
)
