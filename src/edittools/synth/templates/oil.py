"""Oil painting: the Kuwahara filter (each pixel takes the mean of the calmest of four windows)."""

import numpy as np

from edittools.synth.core import Tools, no_slots
from edittools.synth.pixels import luma, short_side

TASK = "style"
LOCAL = False
INSTRUCTION = {
    "en": [
        "{turn|convert|change|transform} <whole> into an {oil painting|oil painting with flat dabs of paint}",
        "{redraw|render|paint} <whole> {as an oil painting|in oils}",
        "{make|let} <whole> look like {an oil painting|it was painted in oils}",
    ],
    "zh": [
        "<ba><whole>{变成|转成|画成|转换为}油画[风格|效果]",
        "用油画的{风格|方式|笔触}{重新绘制|重画|表现}<whole>",
    ],
}
DETAIL = {
    "en": [
        (
            "fine detail {merges|flows together} into {flat dabs|patches} of paint while {large edges|"
            "contours} {stay sharp|remain}"
        ),
    ],
    "zh": ["细节{融成|变成}{色块|笔触}，{轮廓|大的边缘}仍然清楚"],
}
EFFECT = {
    "en": r"\boils?\b",
    "zh": "油画",
}

slots = no_slots


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    radius = max(1, short_side(image) // 32)
    size = radius + 1
    height, width = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    # the luma's variance tells how calm a window is; all sums are exact integers
    level = np.concatenate([padded, luma(padded)[..., None]], axis=-1).astype(np.int64)
    sums = _window_sums(level, size)
    spread = size * size * _window_sums(level[..., 3:] ** 2, size)[..., 0] - sums[..., 3] ** 2
    best = spread[:height, :width]
    result = sums[:height, :width, :3]
    for dy, dx in ((0, radius), (radius, 0), (radius, radius)):
        other = spread[dy : dy + height, dx : dx + width]
        calmer = other < best
        result = np.where(calmer[..., None], sums[dy : dy + height, dx : dx + width, :3], result)
        best = np.minimum(best, other)
    return ((2 * result + size * size) // (2 * size * size)).astype(np.uint8)


def _window_sums(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over size x size windows, indexed by their top left pixel."""
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
