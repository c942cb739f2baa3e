"""Boxes, against areas counted pixel by pixel."""

import numpy as np
import pytest

from edittools.metrics.boxes import centred, clipped, iou, mask_box, suppressed


def test_iou_is_what_counting_pixels_gives() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 30, (12, 4))
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)  # some have no area
    for k, (a, b) in enumerate(zip(boxes[:6], boxes[6:])):
        one, other = (np.zeros((64, 64), bool) for _ in range(2))
        one[a[1] : a[3], a[0] : a[2]] = True
        other[b[1] : b[3], b[0] : b[2]] = True
        union = (one | other).sum()
        assert iou(boxes[:6], boxes[6:])[k, k] == pytest.approx((one & other).sum() / union if union else 0)


def test_suppression_keeps_the_surer_of_two_and_the_first_of_equals() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9.5]])
    assert suppressed(boxes, np.array([0.5, 0.9, 0.1, 0.5]), 0.5) == [1, 2]
    assert suppressed(boxes, np.array([0.5, 0.5, 0.5, 0.5]), 0.5) == [0, 2]
    assert suppressed(boxes, np.array([0.5, 0.5, 0.5, 0.5]), 0.96) == [0, 1, 2, 3]
    assert suppressed(np.zeros((0, 4)), np.zeros(0), 0.5) == []


def test_corners_centres_and_edges() -> None:
    assert centred(np.array([[5.0, 4.0, 2.0, 6.0]])).tolist() == [[4, 1, 6, 7]]
    assert clipped(np.array([-1.0, 2, 12, 3]), 10, 8).tolist() == [[0, 2, 10, 3]]
    mask = np.zeros((5, 7), bool)
    assert mask_box(mask) is None
    mask[1:3, 4] = True
    assert mask_box(mask).tolist() == [4, 1, 5, 3]  # type: ignore[union-attr]
