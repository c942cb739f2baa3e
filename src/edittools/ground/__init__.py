"""What can be seen in an image, and where: detectors find boxes, segmenters masks, maps draw its structure.

A detector is one file of detectors/, a segmenter one of segmenters/, a map one of maps/; what they declare as literals
is read without importing them:

    HELP       what the manual says of it
    WEIGHTS    its weights where none are named: a folder, OWNER/NAME on the hub, or a name of `edit weights`
    OPEN       of a detector: it looks for the names it is given, and has none of its own
    THRESHOLD  of a detector: the score from which its objects count, where --threshold says nothing
    FACES      of a detector: it fills the column `faces`
    DRAWS      of a map: it draws what this detector finds, and where that runs too, nobody looks twice

`load(weights, **placed)` makes a Detector, Segmenter or Map; `placed` are device and dtype. One that runs out of
wheels or extras alone takes what it has no use for, and its weights are "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edittools.registry import Registry

DETECTORS = Registry("edittools.ground.detectors", "edittools.detectors")
SEGMENTERS = Registry("edittools.ground.segmenters", "edittools.segmenters")
MAPS = Registry("edittools.ground.maps", "edittools.maps")


@dataclass(frozen=True)
class Found:
    """One object in an image."""

    name: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of width and height
    score: float | None = None  # the detector's confidence, where it has one
    mask: np.ndarray | None = None  # bool, of the image's height and width
    text: str | None = None  # what is written there
    face: np.ndarray | None = (
        None  # (5, 2) shares: the eyes, the nose, the corners of the mouth, the viewer's left first
    )


class Detector(Protocol):
    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        """The objects of every image (uint8 HxWx3); an open one is told which names to look for in each. Boxes may
        reach outside. What it finds in an image does not depend on its neighbours. Safe in threads."""


class Segmenter(Protocol):
    def masks(self, pixels: np.ndarray, objects: Sequence[Found]) -> list[np.ndarray | None]:
        """The mask (bool HxW) of every object of an image; None where it has none. Safe in threads."""


class Map(Protocol):
    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """The structure of an image as an image of its size, uint8 HxW or HxWx3. Safe in threads.

        A map that DRAWS what a detector finds has also `drawn(pixels, found)`, the same out of what that has found.
        """
