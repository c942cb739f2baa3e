"""Segmenters that are asked by boxes: the SAM family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from edittools.ground import Found
from edittools.ground.networks import Network

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def squared(image: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 HxWx3 -> float32 (3, side, side), its aspect ratio lost, normalised."""
    made = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    values = (np.asarray(made, np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def corners(objects: Sequence[Found]) -> np.ndarray:
    """The boxes, (n, 4) as shares, inside the image."""
    return np.clip(np.array([one.box for one in objects], np.float32).reshape(-1, 4), 0, 1)


class SquareSam(Network):
    """SAM 2, EdgeTAM, the tracker of SAM 3: their image processors want torchvision, and what these do is little. The
    image is encoded once for all of its boxes."""

    def __init__(self, kind: Any, weights: str, norm: tuple[Sequence[float], Sequence[float]], device: str, dtype: str):
        super().__init__(kind, weights, device, dtype, _no_processor)
        self.side, self.norm = int(self.network.config.prompt_encoder_config.image_size), norm

    def masks(self, pixels: np.ndarray, objects: Sequence[Found]) -> list[np.ndarray | None]:
        if not objects:
            return []
        shown = squared(pixels, self.side, *self.norm)[None].to(self.device, self.dtype)
        boxes = torch.from_numpy(corners(objects) * self.side)[None].to(self.device, self.dtype)

        def work() -> Tensor:
            seen = self.network.get_image_embeddings(shown)
            said = self.network(image_embeddings=seen, input_boxes=boxes, multimask_output=False)
            return _enlarged(said.pred_masks[0, :, 0], pixels.shape[:2])

        return list(self.run(work).cpu().numpy())


def _no_processor(folder: Path) -> Any:
    return None


def _enlarged(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, h, w) logits -> bool (n, height, width)."""
    return F.interpolate(logits[:, None].float(), shape, mode="bilinear", align_corners=False)[:, 0] > 0
