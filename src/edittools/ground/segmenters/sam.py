"""SAM (Kirillov et al. 2023), and SAM-HQ: the mask of every box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from edittools.ground import Found
from edittools.ground.networks import Network
from edittools.ground.prompted import corners

HELP = "the mask in a box (SAM)"
WEIGHTS = "facebook/sam-vit-base"


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Sam:
    return Sam(weights, device, dtype)


class Sam(Network):
    """The image is scaled by its longer side and padded; one encoding serves all of its boxes."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForMaskGeneration

        super().__init__(AutoModelForMaskGeneration, weights, device, dtype)

    def masks(self, pixels: np.ndarray, objects: Sequence[Found]) -> list[np.ndarray | None]:
        if not objects:
            return []
        given = self.processor(Image.fromarray(pixels), return_tensors="pt")
        (height, width), (high, wide) = given["original_sizes"].tolist()[0], given["reshaped_input_sizes"].tolist()[0]
        boxes = torch.from_numpy(corners(objects) * np.array([wide, high, wide, high], np.float32))[None]

        def work() -> torch.Tensor:
            seen = self.network.get_image_embeddings(given["pixel_values"].to(self.device, self.dtype))
            placed = boxes.to(self.device, self.dtype)
            said = self.network(image_embeddings=seen, input_boxes=placed, multimask_output=False)
            return said.pred_masks.float().cpu()

        made = self.processor.post_process_masks(self.run(work), [(height, width)], [(high, wide)])
        return list(made[0][:, 0].numpy())
