"""Boxes: x0, y0, x1, y1, in any unit."""

from __future__ import annotations

import numpy as np


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every box (n, 4) and every other (m, 4): (n, m); 0 of boxes without an area."""
    boxes, others = np.asarray(boxes, np.float64).reshape(-1, 1, 4), np.asarray(others, np.float64).reshape(1, -1, 4)
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = areas(boxes) + areas(others) - shared
    made: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return made


def areas(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...); 0 of a box that is turned inside out."""
    sides: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides.prod(axis=-1))


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: float) -> list[int]:
    """Greedy non-maximum suppression: which boxes stay, the surest first; of two whose intersection over union
    exceeds `most`, the surer one (of equals, the first)."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    overlap = iou(boxes, boxes)
    kept: list[int] = []
    for k in order.tolist():
        if not kept or overlap[k, kept].max() <= most:
            kept.append(k)
    return kept


def clipped(boxes: np.ndarray, width: float = 1.0, height: float = 1.0) -> np.ndarray:
    """The parts of boxes (n, 4) that lie inside 0..width, 0..height."""
    return np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height, width, height])


def centred(boxes: np.ndarray) -> np.ndarray:
    """Boxes given as centre x, y, width, height, by their corners."""
    middle, half = boxes[..., :2], boxes[..., 2:4] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def mask_box(mask: np.ndarray) -> np.ndarray | None:
    """The smallest box around a mask (bool HxW), in pixels; None of an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def mask_shares(mask: np.ndarray) -> list[float] | None:
    """The same in shares of width and height, as objects have their boxes."""
    box = mask_box(mask)
    return None if box is None else (box / np.array(mask.shape[::-1] * 2)).tolist()
