"""Pixel art: square blocks, a share of the short side wide, each in its mean colour."""

import numpy as np

from edittools.synth.core import Tools, draw_strength
from edittools.synth.pixels import short_side

TASK = "style"
LOCAL = False
SHARES = {"slight": 48, "medium": 24, "strong": 12}  # block = short side / this, at least 2 pixels
INSTRUCTION = {
    "en": [
        "{turn|convert|change} <whole> into {pixel art|a mosaic} with <strength:blocks> {blocks|squares}",
        "pixelate <whole> {with|into} <strength:blocks> {blocks|squares}",
        "make <whole> look pixelated, with <strength:blocks> {blocks|squares}",
    ],
    "zh": [
        "<ba><whole>{变成|转成|处理成}{像素画|马赛克}，{方块|色块}为<strength:blocks>方块",
        "用<strength:blocks>{方块|色块}<ba><whole>{像素化|马赛克化}",
    ],
}
DETAIL = {
    "en": ["the picture consists of <strength:blocks> {square blocks|squares}, each in one color"],
    "zh": ["画面由<strength:blocks>方块组成，每块只有一种颜色"],
}
EFFECT = {
    "en": r"\bpixel|\bmosaic",
    "zh": "像素|马赛克",
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    block = max(2, short_side(image) // SHARES[slots["strength"]])
    height, width = image.shape[:2]
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.int64), rows, axis=0), columns, axis=1)
    # blocks at the right and lower edges may be narrower
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    area = (tall[:, None] * wide[None, :])[..., None]
    mean = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    return mean.repeat(tall, axis=0).repeat(wide, axis=1)
