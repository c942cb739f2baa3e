"""Segmenters: the SAM family against transformers' own path on tiny random weights, and GrabCut on planted shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_grounding as tiny
import torch
from PIL import Image
from tiny_models import photo, save_segmenter

from edittools.errors import UsageError
from edittools.ground import Found
from edittools.ground.segmenters import foreground, grabcut, sam, sam2, sam3

IMAGE = photo(3, 50, 70)
OBJECTS = [Found("cat", (0.1, 0.2, 0.5, 0.9)), Found("dog", (0.4, 0.0, 1.0, 0.6)), Found("car", (-0.2, 0.5, 0.3, 1.2))]
INSIDE = np.array([[0.1, 0.2, 0.5, 0.9], [0.4, 0.0, 1.0, 0.6], [0.0, 0.5, 0.3, 1.0]], np.float32)


def test_sam_is_what_the_library_makes(tmp_path: Path) -> None:
    from transformers import SamImageProcessorPil, SamModel, SamProcessor

    folder = tiny.save_sam(tmp_path)
    processor, network = SamProcessor(SamImageProcessorPil.from_pretrained(folder)), SamModel.from_pretrained(folder)
    placed = (INSIDE * np.array([70, 50, 70, 50], np.float32)).tolist()
    given = processor(images=Image.fromarray(IMAGE), input_boxes=[placed], return_tensors="pt")
    with torch.inference_mode():
        said = network.eval()(
            pixel_values=given["pixel_values"], input_boxes=given["input_boxes"].float(), multimask_output=False
        )
    wanted = processor.post_process_masks(said.pred_masks, given["original_sizes"], given["reshaped_input_sizes"])[0]
    found = sam.load(str(folder)).masks(IMAGE, OBJECTS)
    assert_same(found, wanted[:, 0].numpy())


def test_sam2_is_what_the_network_says(tmp_path: Path) -> None:
    from transformers import Sam2Model

    folder = tiny.save_sam2(tmp_path)
    assert_same(sam2.load(str(folder)).masks(IMAGE, OBJECTS), by_hand(
        Sam2Model.from_pretrained(folder), 64, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ))  # fmt: skip


def test_the_tracker_of_sam3_is_what_the_network_says(tmp_path: Path) -> None:
    from transformers import Sam3TrackerModel

    folder = tiny.save_sam3_tracker(tmp_path)
    wanted = by_hand(Sam3TrackerModel.from_pretrained(folder), 56, [0.5] * 3, [0.5] * 3)
    assert_same(sam3.load(str(folder)).masks(IMAGE, OBJECTS), wanted)


def by_hand(network: torch.nn.Module, side: int, mean: list[float], std: list[float]) -> np.ndarray:
    """Pixels and boxes into the whole network, at once."""
    shown = np.asarray(Image.fromarray(IMAGE).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = torch.from_numpy(((shown - mean) / std).transpose(2, 0, 1)).float()[None]
    with torch.inference_mode():
        said = network.eval()(
            pixel_values=pixels, input_boxes=torch.from_numpy(INSIDE * side)[None], multimask_output=False
        )
    return (torch.nn.functional.interpolate(said.pred_masks[0], (50, 70), mode="bilinear")[:, 0] > 0).numpy()


def assert_same(found: list[np.ndarray | None], wanted: np.ndarray) -> None:
    assert len(found) == len(wanted) == 3
    assert 0 < wanted.mean() < 1, "random weights that say everything or nothing prove nothing"
    for one, other in zip(found, wanted):
        assert one is not None and one.dtype == bool and (one != other).mean() < 0.005


def test_foreground_is_cut_to_the_box(tmp_path: Path) -> None:
    segmenter = foreground.load(str(save_segmenter(tmp_path)))
    whole = segmenter.network.foreground(IMAGE)
    mask = segmenter.masks(IMAGE, [Found("cat", (0.5, 0.0, 1.0, 1.0))])[0]
    assert mask is not None and (mask[:, 35:] == whole[:, 35:]).all() and not mask[:, :35].any()
    with pytest.raises(UsageError, match="names no weights"):
        foreground.load("")


def test_grabcut_finds_planted_shapes() -> None:
    """Discs of one colour on flat and on textured ground: exact masks by construction."""
    pytest.importorskip("cv2")
    segmenter = grabcut.load()
    y, x = np.mgrid[:200, :240]
    rng = np.random.default_rng(0)
    overlaps = []
    for k in range(8):
        ground = rng.integers(0, 200, 3) + rng.normal(0, 4 + k, (200, 240, 1))
        disc = (x - 120 + 3 * k) ** 2 + (y - 100) ** 2 < (40 + 2 * k) ** 2
        colour = (ground.mean(axis=(0, 1)) + 120) % 255
        image = (
            np.where(disc[..., None], colour + rng.normal(0, 5, (200, 240, 1)), ground).clip(0, 255).astype(np.uint8)
        )
        rows, columns = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
        box = (
            columns[0] / 240 - 0.02,
            rows[0] / 200 - 0.02,
            (columns[-1] + 1) / 240 + 0.02,
            (rows[-1] + 1) / 200 + 0.02,
        )
        mask = segmenter.masks(image, [Found("ball", box)])[0]
        assert mask is not None
        overlaps.append((mask & disc).sum() / (mask | disc).sum())
        assert (mask == segmenter.masks(image, [Found("ball", box)])[0]).all(), "the same every time"
    assert min(overlaps) > 0.95, overlaps


def test_grabcut_begins_again_in_the_middle_where_nothing_is_left() -> None:
    """Discs of a few of the greys that their ground has: by its colours all of the box may be ground."""
    pytest.importorskip("cv2")
    segmenter = grabcut.load()
    y, x = np.mgrid[:250, :250]
    for k in range(5):
        rng = np.random.default_rng(k)
        ground, inner = (np.kron(rng.integers(*greys, (50, 50)), np.ones((5, 5))) for greys in ((0, 256), (90, 150)))
        cx, cy = rng.integers(80, 170, 2)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 45**2
        image = np.repeat(np.where(disc, inner, ground)[..., None], 3, axis=2).astype(np.uint8)
        box = ((cx - 44) / 250, (cy - 44) / 250, (cx + 45) / 250, (cy + 45) / 250)
        (mask,) = segmenter.masks(image, [Found("ball", box)])
        assert mask is not None and (mask & disc).sum() / (mask | disc).sum() > 0.9


def test_grabcut_meets_boxes_without_room_or_context() -> None:
    pytest.importorskip("cv2")
    segmenter = grabcut.load()
    flat = np.full((40, 40, 3), 90, np.uint8)
    whole, sliver = segmenter.masks(flat, [Found("x", (0, 0, 1, 1)), Found("x", (0.5, 0.5, 0.501, 0.501))])
    assert whole is not None and whole.shape == (40, 40)
    assert sliver is None
