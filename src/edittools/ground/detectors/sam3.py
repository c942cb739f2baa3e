"""SAM 3: boxes, masks and scores by names, in one pass for each name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.ground import Found
from edittools.ground.networks import Network, tokenizer
from edittools.ground.prompted import squared

HELP = "boxes and masks of any names (SAM 3)"
WEIGHTS = "facebook/sam3"
OPEN = True
THRESHOLD = 0.3
_TOKENS = 32
_MEAN = _STD = (0.5, 0.5, 0.5)


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Sam3:
    return Sam3(weights, device, dtype)


def _no_processor(folder: Path) -> Any:
    """Its image processor wants torchvision."""
    return None


class Sam3(Network):
    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import Sam3Model

        super().__init__(Sam3Model, weights, device, dtype, _no_processor)
        self.tokenizer = tokenizer(self.folder)
        self.side = int(self.network.config.image_size)

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [self._one(image, wanted) if wanted else [] for image, wanted in zip(pixels, names)]

    def _one(self, image: np.ndarray, names: Sequence[str]) -> list[Found]:
        given = self.tokenizer(
            list(names), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(self.device)
        shown = squared(image, self.side, _MEAN, _STD)[None].to(self.device, self.dtype)
        found: list[Found] = []

        def work() -> None:
            seen = self.network.get_vision_features(pixel_values=shown)  # once for all names
            for k, name in enumerate(names):
                said = self.network(
                    vision_embeds=seen,
                    input_ids=given["input_ids"][k : k + 1],
                    attention_mask=given["attention_mask"][k : k + 1],
                )
                found.extend(_read(said, name, image.shape[:2]))

        self.run(work)
        return found


def _read(said: Any, name: str, shape: tuple[int, ...]) -> list[Found]:
    scores = said.pred_logits[0].float().sigmoid()
    if said.presence_logits is not None:
        scores = scores * said.presence_logits[0].float().sigmoid()
    kept = torch.nonzero(scores >= _LEAST)[:, 0]
    boxes = said.pred_boxes[0].float()[kept].cpu().numpy()
    return [
        Found(name, tuple(boxes[k].tolist()), float(scores[q]), _mask(said.pred_masks[0, q], shape))
        for k, q in enumerate(kept.tolist())
    ]


_LEAST = 0.01  # masks of what is surely nothing are not enlarged


def _mask(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    made = F.interpolate(logits[None, None].float().sigmoid(), shape, mode="bilinear", align_corners=False)
    return (made[0, 0] > 0.5).cpu().numpy()
