"""What pixels say about a pair (is the edit visible, and where) and about a result (how near the truth).

Values are rounded to 6 significant digits, as every stored score is, so that a threshold decides alike on the
number computed and on the number read back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edittools.metrics import pixels
from edittools.rounding import rounded

VISIBLE_RATIO = 0.001
"""An edit is visible if at least this share of the pixels changed, such as one letter of a caption."""

TINY_RATIO = 0.01
"""ImgEdit's tiny-region criterion: an edit of less than 1% of the image."""


def judge_pair(source: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> dict[str, Any]:
    """Scores of an edit pair: `visible`, `edit_ratio`, `edit_box`, `psnr`, `ssim`, `l1`, `resized`.

    `edit_ratio` is the share of changed pixels (see pixels.changed), `edit_box` [x0, y0, x1, y1] as fractions
    of the source's size or None. With a mask of the intended edit (height x width, bool or uint8):
    `mask_share`, the share of the changed pixels that lie inside it, and `mask_iou`, the intersection of
    changed and masked pixels over their union; both are None without a mask or where nothing changed.
    A target of another size is brought to the source's, and `resized` says so: its other scores then include
    the loss by resampling.
    """
    height, width = source.shape[:2]
    resized = target.shape[:2] != (height, width)
    if resized:
        target = pixels.resize(target, height, width)
    change = pixels.changed(source, target)
    ratio, mask_share, mask_iou = _where(change, mask)
    return rounded({
        "visible": ratio >= VISIBLE_RATIO,
        "edit_ratio": ratio,
        "edit_box": pixels.bounding_box(change),
        "psnr": pixels.psnr(source, target),
        "ssim": pixels.ssim(source, target),
        "l1": pixels.l1(source, target),
        "mask_share": mask_share,
        "mask_iou": mask_iou,
        "resized": resized,
    })  # fmt: skip


def judge_change(result: np.ndarray, source: np.ndarray, mask: np.ndarray | None = None) -> dict[str, Any]:
    """What a model changed, without asking for a truth: `edit_ratio`, `mask_share`, `mask_iou` of judge_pair.

    Here a `mask_iou` of nothing changed is 0 and not None: handing the source back is no edit of the region.
    """
    height, width = source.shape[:2]
    if result.shape[:2] != (height, width):
        result = pixels.resize(result, height, width)
    ratio, mask_share, mask_iou = _where(pixels.changed(source, result), mask)
    if mask is not None and mask_iou is None:
        mask_iou = 0.0
    return rounded({"edit_ratio": ratio, "mask_share": mask_share, "mask_iou": mask_iou})


def _where(change: np.ndarray, mask: np.ndarray | None) -> tuple[float, float | None, float | None]:
    """`edit_ratio`, `mask_share` and `mask_iou` of changed pixels."""
    mask_share = mask_iou = None
    if mask is not None and change.any():
        inside = pixels.as_mask(mask, *change.shape)
        both = np.count_nonzero(change & inside)
        mask_share = both / np.count_nonzero(change)
        mask_iou = both / np.count_nonzero(change | inside)
    return float(change.mean()), mask_share, mask_iou


def judge_result(
    result: np.ndarray, truth: np.ndarray, source: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores of a model's result against the true target, beside those of changing nothing.

    `psnr`, `ssim`, `l1`, and `psnr_inside`, `psnr_outside`, `l1_inside`, `l1_outside` inside and outside
    the mask of the edit (None without a mask, or where that side is empty). The same seven with the prefix
    `copy_` are those of the source handed back unedited: the score to beat. Images of another size than
    the truth are brought to its size; `resized` and `copy_resized` say so.
    """
    height, width = truth.shape[:2]
    inside = None if mask is None else pixels.as_mask(mask, height, width)
    scores: dict[str, Any] = {}
    for prefix, image in (("", result), ("copy_", source)):
        resized = image.shape[:2] != (height, width)
        if resized:
            image = pixels.resize(image, height, width)
        scores |= {prefix + name: value for name, value in _distances(image, truth, inside).items()}
        scores[prefix + "resized"] = resized
    return rounded(scores)


def _distances(image: np.ndarray, truth: np.ndarray, inside: np.ndarray | None) -> dict[str, float | None]:
    scores = {
        "psnr": pixels.psnr(image, truth),
        "ssim": pixels.ssim(image, truth),
        "l1": pixels.l1(image, truth),
        "psnr_inside": None, "psnr_outside": None, "l1_inside": None, "l1_outside": None,
    }  # fmt: skip
    if inside is not None:
        for side, where in (("inside", inside), ("outside", ~inside)):
            scores[f"psnr_{side}"] = pixels.psnr(image, truth, where)
            scores[f"l1_{side}"] = pixels.l1(image, truth, where)
    return scores
