"""A symmetrical image: one half kept, the other replaced by its mirror image."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools

TASK = "creative"
LOCAL = True
HALVES = ("left_half", "right_half", "top_half", "bottom_half")
INSTRUCTION = {
    "en": [
        "make <picture> symmetrical by {mirroring|reflecting} its <half> onto the <half:opposite>",
        ("{replace|cover} the <half:opposite> of <picture> {with|by} {the mirror image|a reflection} of its <half>"),
        "{mirror|reflect} the <half> of <picture> onto the <half:opposite> [to make it symmetrical]",
    ],
    "zh": [
        "<ba><picture>的<half>镜像到<half:opposite>[，使画面对称]",
        "用<picture><half>的{镜像|倒影|翻转}{替换|覆盖|代替}<half:opposite>",
        "{以|按}<half>为准，{让|使}<picture>{对称|变成对称的}",
    ],
}
DETAIL = {
    "en": ["the <half:opposite> is now the mirror image of the <half>"],
    "zh": ["<half:opposite>现在是<half>的镜像"],
}
EFFECT = {
    "en": r"\bmirror|\breflect|\bsymmetr",
    "zh": "镜像|倒影|翻转|对称",
}
KEEPS = {
    "en": ["the <half> {stays|remains} {as it is|untouched}"],
    "zh": ["<half>{保持不变|不变}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"half": draw(rng, HALVES)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    turned = slots["half"] in ("top_half", "bottom_half")
    view = image.swapaxes(0, 1) if turned else image
    result = view.copy()
    middle = view.shape[1] // 2
    if slots["half"] in ("left_half", "top_half"):
        result[:, -middle:] = view[:, :middle][:, ::-1]
    else:
        result[:, :middle] = view[:, -middle:][:, ::-1]
    return np.ascontiguousarray(result.swapaxes(0, 1)) if turned else result
