"""Boxes that a vision-language model writes. Families differ in what their numbers mean: pixels of the image as it is
sent (Qwen2.5-VL), or thousandths of its sides (Qwen3-VL, and what the prompt asks of others)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edittools.caption.schemas import listing, read_answer, record, whole
from edittools.caption.schemas import text as said_text
from edittools.ground import Found
from edittools.vlm import Request, json_format
from edittools.vlm.asker import Asker, encoded, load_asker

HELP = "boxes of any names by a VLM (vlm=MODEL; of an endpoint, EDITTOOLS_API_BASE)"
WEIGHTS = ""
OPEN = True
THRESHOLD = 0.0  # it says no scores: every box counts 1
_LONGEST = 1008  # pixels: a multiple of the patches of these families, so that an image is not resized again
_PIXELS = ("qwen2.5", "qwen2_5")  # models whose boxes are in pixels
_ASKED = """Find every one of these in the image: {names}. Answer with JSON only: {{"objects": [{{"name": one of the
names, "x0": left, "y0": top, "x1": right, "y1": bottom}}]}}. {units} What is not there has no entry."""
_UNITS = {
    True: "Numbers are pixels; the image is {width} pixels wide and {height} high.",
    False: "Numbers are whole thousandths of the image's width and height, 0 to 1000.",
}


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> VlmDetector:
    return VlmDetector(load_asker(weights, "--detector vlm", device, dtype))


class VlmDetector:
    def __init__(self, ask: Asker) -> None:
        self.ask = ask
        self.pixels = any(family in ask.model.lower() for family in _PIXELS)

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        asked = [k for k, some in enumerate(names) if some]
        sizes = {k: _sent(pixels[k]) for k in asked}
        replies = self.ask([self._request(pixels[k], names[k], sizes[k]) for k in asked])
        found: list[list[Found]] = [[] for _ in pixels]
        for k, reply in zip(asked, replies):
            found[k] = self._read(reply, names[k], sizes[k])
        return found

    def _request(self, image: np.ndarray, names: Sequence[str], size: tuple[int, int]) -> Request:
        units = _UNITS[self.pixels].format(width=size[0], height=size[1])
        words = _ASKED.format(names=", ".join(names), units=units)
        told = {"max_tokens": 2000, "temperature": 0, "response_format": json_format("boxes", _SCHEMA)}
        return Request(self.ask.model, (encoded(image, _LONGEST), words), told)

    def _read(self, reply: str, names: Sequence[str], size: tuple[int, int]) -> list[Found]:
        """The boxes of a reply; none of one that is no JSON of this form, and none of a name that was not asked for."""
        try:
            objects = read_answer(reply, _SCHEMA)["objects"]
        except ValueError:
            return []
        known = {name.casefold(): name for name in names}
        unit = np.array([*size, *size]) if self.pixels else np.full(4, 1000.0)
        found = []
        for one in objects:
            box = np.array([one[side] for side in ("x0", "y0", "x1", "y1")]) / unit
            fits = (box[:2] < box[2:]).all() and (box[:2] < 1).all() and (box <= 1.05).all()
            if one["name"].casefold() in known and fits:
                found.append(Found(known[one["name"].casefold()], tuple(box.tolist()), 1.0))
        return found


_NUMBER = whole(0, 100_000)
_BOX = record(name=said_text("a name", 120), x0=_NUMBER, y0=_NUMBER, x1=_NUMBER, y1=_NUMBER)
_SCHEMA = record(objects=listing(_BOX, 100))


def _sent(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the image as it is sent."""
    from PIL import Image

    shown = Image.fromarray(image)
    shown.thumbnail((_LONGEST, _LONGEST))
    return shown.size
