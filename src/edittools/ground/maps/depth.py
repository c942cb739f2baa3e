"""Depth by any network of transformers that estimates it: near is bright, whatever the network's own sense."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from edittools.ground.networks import Network

HELP = "depth, near is bright (Depth Anything, DPT, ZoeDepth)"
WEIGHTS = "depth-anything/Depth-Anything-V2-Small-hf"
_METRES = ("zoedepth", "depth_pro")  # networks that say a distance, not its inverse


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Depth:
    return Depth(weights, device, dtype)


class Depth(Network):
    """From the farthest place of the image, black, to the nearest, white. Distances are shown by their inverses, as the
    other networks estimate these."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForDepthEstimation

        super().__init__(AutoModelForDepthEstimation, weights, device, dtype)
        config = self.network.config
        self.metres = config.model_type in _METRES or getattr(config, "depth_estimation_type", "") == "metric"
        if getattr(self.processor, "do_pad", False):
            self.processor.do_pad = False  # what is padded would have to be cut off again

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        shown = self.prepare(pixels)[None].to(self.device, self.dtype)

        def work() -> torch.Tensor:
            said = self.network(pixel_values=shown).predicted_depth.float()
            made: torch.Tensor = F.interpolate(said[:, None], pixels.shape[:2], mode="bicubic", align_corners=False)[
                0, 0
            ]
            return made.cpu()

        values = self.run(work).numpy().astype(np.float64)
        if self.metres:
            values = 1 / np.maximum(values, 1e-3)
        low, high = values.min(), values.max()
        return np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
