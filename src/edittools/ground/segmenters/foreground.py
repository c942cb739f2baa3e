"""A network that tells foreground from background in the whole image: what of it lies in the box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edittools.ground import Found

if TYPE_CHECKING:
    from edittools.encoders.segmenter import SemanticSegmenter

HELP = "the foreground in a box (semantic segmentation or matting of one label); --segmenter foreground=NAME"
WEIGHTS = ""


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Foreground:
    from edittools.encoders.segmenter import load_segmenter
    from edittools.errors import UsageError

    if not weights:
        raise UsageError("--segmenter foreground names no weights", hint="--segmenter foreground=FOLDER|NAME")
    return Foreground(load_segmenter(weights, [], device=device, dtype=dtype))


class Foreground:
    def __init__(self, network: SemanticSegmenter) -> None:
        self.network = network

    def masks(self, pixels: np.ndarray, objects: Sequence[Found]) -> list[np.ndarray | None]:
        if not objects:
            return []
        whole = self.network.foreground(pixels)
        return [whole & inside(one.box, *pixels.shape[:2]) for one in objects]


def inside(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """The pixels (bool HxW) whose centres lie in a box of shares."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    return ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))
