"""OWLv2 (Minderer et al. 2023): boxes by names."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from edittools.ground.networks import OpenDetector, tokenizer
from edittools.metrics.boxes import centred

HELP = "boxes of any names (OWLv2)"
WEIGHTS = "google/owlv2-base-patch16-ensemble"
OPEN = True
THRESHOLD = 0.1


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Owlv2:
    return Owlv2(weights, device, dtype)


class Owlv2(OpenDetector):
    """Images are padded at the bottom and on the right to squares, so that boxes may reach outside of them."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import Owlv2ForObjectDetection

        super().__init__(Owlv2ForObjectDetection, weights, device, dtype)
        self.tokenizer = tokenizer(self.folder)
        self.length = self.network.config.text_config.max_position_embeddings

    def look(self, pixels: Tensor, names: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        flat = [name for some in names for name in some]
        given = self.tokenizer(
            flat, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.device)
        said = self.run(
            lambda: self.network(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                pixel_values=pixels.to(self.device, self.dtype),
            )
        )
        scores = said.logits.float().sigmoid().cpu().numpy()
        return list(zip(centred(said.pred_boxes.float().cpu().numpy()), scores))

    def shares(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        return boxes * max(height, width) / np.array([width, height, width, height])
