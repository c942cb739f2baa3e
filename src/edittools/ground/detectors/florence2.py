"""Florence-2 (Xiao et al. 2024): it writes the boxes of names, in thousandths of the image's sides."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edittools.encoders.vision import image_processor
from edittools.errors import EditError, describe
from edittools.ground import Found
from edittools.ground.networks import Network, tokenizer

HELP = "boxes of any names (Florence-2), without scores: every box counts 1, and what is not there may have one"
WEIGHTS = "florence-community/Florence-2-base"
OPEN = True
THRESHOLD = 0.0
_PROMPT = "<OPEN_VOCABULARY_DETECTION>"
_BINS = 1000
_BEAMS, _MOST_TOKENS = 3, 512


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Florence2:
    return Florence2(weights, device, dtype)


class Florence2(Network):
    """A name at a time: asked for several, it gives all of them one answer."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        super().__init__(Florence2ForConditionalGeneration, weights, device, dtype, image_processor)
        try:
            self.reader = Florence2Processor(self.processor, tokenizer(self.folder))
        except AttributeError as error:  # a checkpoint of another kind has no `image_token`
            raise EditError(f"{self.folder}: no Florence-2 of transformers' own: {describe(error)}") from error

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [self._one(image, wanted) if wanted else [] for image, wanted in zip(pixels, names)]

    def _one(self, image: np.ndarray, names: Sequence[str]) -> list[Found]:
        given = self.reader(
            images=[image] * len(names), text=[_PROMPT + name for name in names], padding=True, return_tensors="pt",
            input_data_format="channels_last",
        ).to(self.device)  # fmt: skip
        given["pixel_values"] = given["pixel_values"].to(self.dtype)
        told = {"max_new_tokens": _MOST_TOKENS, "num_beams": _BEAMS, "do_sample": False}
        made = self.run(lambda: self.network.generate(**given, **told))
        said = self.reader.batch_decode(made, skip_special_tokens=False)
        return [Found(name, box, 1.0) for name, text in zip(names, said) for box in boxes_of(text)]


def boxes_of(text: str) -> list[tuple[float, float, float, float]]:
    """The boxes that a reply writes, as shares of the image, each once: corners at the middle of their bins. A polygon
    (`<poly>`) counts as the box about it; what is no box of an area is left out."""
    found: dict[tuple[float, float, float, float], None] = {}
    for outlined, some in re.findall(r"(<poly>)?((?:<loc_\d+>)+)", text):
        places = [(int(place) + 0.5) / _BINS for place in re.findall(r"\d+", some)]
        size = len(places) // 2 * 2 if outlined else 4
        for start in range(0, len(places) - size + 1, max(size, 1)):
            x, y = places[start : start + size : 2], places[start + 1 : start + size : 2]
            if x and y and min(x) < max(x) and min(y) < max(y):
                found[(min(x), min(y), max(x), max(y))] = None
    return list(found)
