"""The whole image, made smaller, repeated in a grid."""

import numpy as np
from PIL import Image

from edittools.seeded import draw
from edittools.synth.core import Tools

TASK = "creative"
LOCAL = False
COUNTS = ("2", "3", "4")
INSTRUCTION = {
    "en": [
        "{repeat|tile} <whole> in a <count>-by-<count> grid",
        "{turn|make} <whole> into a <count> x <count> {grid|tiling} of {itself|smaller copies of itself}",
        (
            "{fill|cover} the frame with {a <count>-by-<count> grid|<count> rows and <count> columns} of "
            "small copies of <picture>"
        ),
    ],
    "zh": [
        "<ba><whole>{缩小后|缩小，}{排成|拼成|平铺成}<count>行<count>列",
        "{用|以}<count>乘<count>的{网格|宫格}{重复|平铺|铺满}<whole>",
    ],
}
DETAIL = {
    "en": ["<count> rows of <count> equal small copies of the picture fill the frame"],
    "zh": ["画面由<count>行<count>列相同的小图{组成|拼成}"],
}
EFFECT = {
    "en": r"\brepeat|\btil(?:e|ing)|\bgrid\b|\bcopies\b",
    "zh": "[行列]|网格|宫格|平铺|铺满",
}
KEEPS = {
    "en": ["every copy {shows|keeps} the whole picture in its own colors"],
    "zh": ["每个小图都{保留|包含}完整的画面和原来的颜色"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"count": draw(rng, COUNTS)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    height, width = image.shape[:2]
    count = int(slots["count"])
    # rounded up, so that the last row and column are cut rather than missing
    small = Image.fromarray(image).resize((-(-width // count), -(-height // count)), Image.Resampling.BOX)
    return np.tile(np.asarray(small), (count, count, 1))[:height, :width].copy()
