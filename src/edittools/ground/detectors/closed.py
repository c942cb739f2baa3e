"""Detectors of fixed labels: DETR (Carion et al. 2020), RT-DETR, D-FINE, YOLOS, and what else transformers has."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from edittools.ground import Found
from edittools.ground.networks import Network

HELP = "objects of fixed labels, such as COCO's 80 (RT-DETR, D-FINE, DETR, YOLOS)"
WEIGHTS = "PekingU/rtdetr_r50vd_coco_o365"
OPEN = False
THRESHOLD = 0.5
_LEAST = 0.01  # of the scores that are read at all


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Closed:
    return Closed(weights, device, dtype)


class Closed(Network):
    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForObjectDetection

        super().__init__(AutoModelForObjectDetection, weights, device, dtype)
        self.labels = {int(k): str(name) for k, name in self.network.config.id2label.items()}

    def detect(self, pixels: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [self._one(image) for image in pixels]

    def _one(self, image: np.ndarray) -> list[Found]:
        # One image at a time: some of these networks see the padding of a batch.
        shown = self.prepare(image)[None].to(self.device, self.dtype)

        def work() -> Any:
            said = self.network(pixel_values=shown)
            return SimpleNamespace(logits=said.logits.float().cpu(), pred_boxes=said.pred_boxes.float().cpu())

        sizes = torch.tensor([[1.0, 1.0]])  # shares of the image
        (found,) = self.processor.post_process_object_detection(self.run(work), _LEAST, target_sizes=sizes)
        return [
            Found(self.labels[label], tuple(box), score)
            for box, score, label in zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
        ]
