"""One cell of the 3 x 3 grid brightened, darkened, made gray, inverted or blurred."""

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Tools
from edittools.synth.regions import OPERATIONS, operate_on_cell
from edittools.synth.shapes import PLACES

TASK = "adjust"
LOCAL = True
INSTRUCTION = {
    "en": [
        "<operation> the <place:cell> {ninth|cell} of <picture> [only][, on a three-by-three grid]",
        "<operation> only the <place:cell> {ninth|cell} of <picture> [, on a three-by-three grid]",
    ],
    "zh": [
        "<ba><picture>{九宫格的|九宫格中的|按九宫格划分的}<place:cell>{格|一格|区域}<operation>",
        "{只|仅}<ba><picture>{九宫格的|九宫格中的}<place:cell>{格|一格|区域}<operation>",
    ],
}
DETAIL = {
    "en": [
        ("the <place:cell> ninth of the picture is <operation:result>, {with a sharp border|up to a straight border}"),
    ],
    "zh": ["九宫格的<place:cell>格<operation:result>，边界{清晰|笔直}"],
}


def slots(image: np.ndarray, rng: np.random.Generator, tools: Tools) -> dict:
    return {"operation": draw(rng, OPERATIONS), "place": draw(rng, PLACES)}


def apply(image: np.ndarray, slots: dict, tools: Tools) -> np.ndarray:
    return operate_on_cell(image, slots)
