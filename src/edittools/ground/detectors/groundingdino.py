"""GroundingDINO (Liu et al. 2023), and MM-GroundingDINO: boxes by names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from edittools.errors import EditError
from edittools.ground.networks import OpenDetector, tokenizer
from edittools.metrics.boxes import centred

HELP = "boxes of any names (GroundingDINO)"
WEIGHTS = "IDEA-Research/grounding-dino-tiny"
OPEN = True
THRESHOLD = 0.25


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> GroundingDino:
    return GroundingDino(weights, device, dtype)


class GroundingDino(OpenDetector):
    """A name's score is that of its best token: the names that the library joins of all tokens above a threshold are
    merged, cut or empty."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForZeroShotObjectDetection

        super().__init__(AutoModelForZeroShotObjectDetection, weights, device, dtype)
        self.tokenizer = tokenizer(self.folder)
        self.most_tokens = int(getattr(self.network.config, "max_text_len", 256))

    def chunks(self, names: list[str]) -> Iterator[list[str]]:
        """Two tokens stand about all names, and a full stop behind each."""
        some: list[str] = []
        length = 2
        for name in names:
            needs = len(self._tokens(name)) + 1
            if needs + 2 > self.most_tokens:
                raise EditError(f"a name has more than {self.most_tokens - 3} tokens: {name[:60]}")
            if length + needs > self.most_tokens:
                yield some
                some, length = [], 2
            some, length = [*some, name], length + needs
        if some:
            yield some

    def _tokens(self, name: str) -> list[int]:
        return self.tokenizer(_said(name), add_special_tokens=False)["input_ids"]

    def look(self, pixels: Tensor, names: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        texts = [". ".join(map(_said, some)) + "." for some in names]
        given = self.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=True)
        said = self.run(lambda: self.network(pixels.to(self.device, self.dtype), **given.to(self.device)))
        scores = said.logits.float().sigmoid().cpu().numpy()  # of padding 0
        boxes = centred(said.pred_boxes.float().cpu().numpy())
        return [
            (boxes[k], scores_of(scores[k], [len(self._tokens(name)) for name in some])) for k, some in enumerate(names)
        ]


def _said(name: str) -> str:
    """A name as the network was trained to read it: a full stop or a question mark would end it."""
    return " ".join(name.lower().replace(".", " ").replace("?", " ").split())


def scores_of(scores: np.ndarray, lengths: list[int]) -> np.ndarray:
    """The best token of every name: (q, tokens) -> (q, names); names follow the first token, one token between them."""
    starts = 1 + np.cumsum([0, *(length + 1 for length in lengths[:-1])])
    spans = [scores[:, start : start + length] for start, length in zip(starts, lengths)]
    return np.stack([span.max(axis=1, initial=0.0) for span in spans], axis=1)
