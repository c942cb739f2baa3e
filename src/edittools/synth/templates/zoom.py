"""Zooming in on the centre: the middle is cut out and resized (bicubic) to the frame."""

import numpy as np
from PIL import Image

from edittools.synth.core import Tools, draw_strength

TASK = "viewpoint"
LOCAL = False
FACTORS = {"slight": (5, 4), "medium": (3, 2), "strong": (2, 1)}
INSTRUCTION = {
    "en": [
        "zoom in [on the center of <picture>] {by a factor of <strength:factor>|<strength:times>}",
        "{enlarge|magnify} the {center|middle} of <picture> <strength:times> [so that it fills the frame]",
        "{move|bring} the camera closer to the {center|middle} of <picture>, magnifying it <strength:times>",
    ],
    "zh": [
        "<ba><picture>{的中心|中央|的中间部分}{放大|拉近}<strength:times>[，充满画面]",
        "{以|从}<picture>{中心|中央}为基准放大<strength:times>",
        "{镜头|视角}向<picture>{中心|中央}拉近，{画面|内容}放大<strength:times>",
    ],
}
DETAIL = {
    "en": [
        ("the {center|middle} appears <strength:times> as large and the margins {are outside the frame|fall away}"),
    ],
    "zh": ["中心部分放大<strength:times>，四周{移出画面|被裁掉}"],
}
EFFECT = {
    "en": r"\b(?:zoom|enlarg|magnif|closer)",
    "zh": "放大|拉近",
}
KEEPS = {
    "en": ["{colors|all colors} and the center point {stay|remain} the same"],
    "zh": ["颜色和中心点{保持不变|不变}"],
}

slots = draw_strength


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    height, width = image.shape[:2]
    numerator, denominator = FACTORS[slots["strength"]]
    inner_h, inner_w = height * denominator // numerator, width * denominator // numerator
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    inner = Image.fromarray(image[top : top + inner_h, left : left + inner_w])
    return np.asarray(inner.resize((width, height), Image.Resampling.BICUBIC))
