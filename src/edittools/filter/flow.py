"""Motion between the frames of a pair: the flow, and what is foreground (Step1X-Edit 3.1.1)."""

from __future__ import annotations

import numpy as np

from edittools.errors import RowError
from edittools.opencv import opencv
from edittools.stream.codec import Raster

RASTER = Raster(short_side=384, gray=True)
COLOUR = Raster(short_side=384)  # the same raster, for models


def same_size(source: np.ndarray, other: np.ndarray, name: str) -> None:
    """Raises RowError where an image is not of the source's size."""
    if source.shape[:2] != other.shape[:2]:
        sizes = (f"{item.shape[1]}x{item.shape[0]}" for item in (source, other))
        raise RowError(f"source and {name} differ in size", " and ".join(sizes))


def dis(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where every pixel of the source goes, HxWx2 (x, y) in pixels; DIS flow (Kroeger 2016) by OpenCV, uint8 HxW."""
    cv2 = opencv("--motion")
    height, width = source.shape
    # Patches are 8 pixels wide, and coarser levels halve the sides: small images are continued at the edge.
    pad = [(0, max(0, 64 - side)) for side in source.shape]
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = engine.calc(*(np.ascontiguousarray(np.pad(item, pad, mode="edge")) for item in (source, target)), None)
    return found[:height, :width]


def per_cent(flow: np.ndarray) -> np.ndarray:
    """Pixels as per cent of the image's diagonal."""
    return flow * (100 / float(np.hypot(*flow.shape[:2])))
