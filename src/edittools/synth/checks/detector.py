"""An open detector looks for what is to be gone, and for what is to be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edittools.errors import UsageError
from edittools.ground import DETECTORS
from edittools.metrics.boxes import iou
from edittools.synth.checking import Painted

HELP = "a detector of names (detector=NAME[=WEIGHTS]) finds what is new in the mask's box, and not what is gone"
WEIGHTS = "groundingdino"
LEAST = 1.0
_OVERLAP = 0.2  # intersection over union of a find and the mask's box


def load(told: str, device: str = "cpu", dtype: str = "float32") -> DetectorCheck:
    """Raises UsageError for a detector that does not look for names."""
    name, _, weights = told.partition("=")
    if name not in DETECTORS.names or not DETECTORS.declared("OPEN", False)[name]:
        raise UsageError(f"--check detector={told}: {name} does not look for names")
    made = DETECTORS.load(name).load(weights or DETECTORS.declared("WEIGHTS", "")[name], device=device, dtype=dtype)
    return DetectorCheck(made, DETECTORS.declared("THRESHOLD", 0.0)[name])


class DetectorCheck:
    """The share of what was asked for that holds: 1 where the new name is found and the old one is not."""

    def __init__(self, detector: Any, threshold: float) -> None:
        self.detector, self.threshold = detector, threshold

    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        asked = [[name for name in (one.plan.gone, one.plan.there) if name] for one in edits]
        told = [k for k, names in enumerate(asked) if names]
        # One name at a time: beside another a name would have to win a box, and the question is whether it has any.
        looks = [(k, name) for k in told for name in asked[k]]
        found = self.detector.detect([edits[k].target for k, _ in looks], [[name] for _, name in looks])
        held: dict[int, list[bool]] = {k: [] for k in told}
        for (k, name), objects in zip(looks, found):
            edit = edits[k]
            boxes = np.array([one.box for one in objects if (one.score or 0) >= self.threshold]).reshape(-1, 4)
            seen = bool(len(boxes)) and _where(boxes, _place(edit, name))
            held[k].append(seen == (name == edit.plan.there))
        return [sum(held[k]) / len(held[k]) if k in held else None for k in range(len(edits))]


def _place(edit: Painted, name: str) -> np.ndarray | None:
    """Where a name counts, a box of shares; None: anywhere, as of an edit of the whole image."""
    if name == edit.plan.gone and edit.plan.place is not None:
        return np.array(edit.plan.place)
    height, width = edit.paint.shape
    return None if edit.paint.all() else np.array(edit.box, float) / np.array([width, height, width, height])


def _where(boxes: np.ndarray, place: np.ndarray | None) -> bool:
    return place is None or bool(iou(np.clip(boxes, 0, 1), place).max() > _OVERLAP)
