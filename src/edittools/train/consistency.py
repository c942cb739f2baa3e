"""The consistency loss [SPEC T8, FireRed eq. 6-8]: what was edited still looks like itself to a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edittools.errors import EditError
from edittools.models.systems.base import System
from edittools.models.weights import find_weights

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of width and height
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def weight(eta: float, t: Tensor) -> Tensor:
    """λ(σ) = η σ² for σ < 0.9, else 0   [FireRed eq. 6]"""
    return torch.where(t < 0.9, eta * t.square(), torch.zeros_like(t))


class FrozenEncoder:
    """φ: any vision model of transformers that has one vector or a row of states per picture (DINOv2, CLIP, SigLIP, a
    face encoder). Differentiable with respect to the picture."""

    def __init__(self, model: Any, mean: list[float], std: list[float], side: int) -> None:
        self.model = model.requires_grad_(False).eval()
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.side = side

    @classmethod
    def load(cls, spec: str, device: str, dtype: str) -> FrozenEncoder:
        """Raises EditError that says what is missing."""
        from transformers import AutoImageProcessor, AutoModel

        folder = Path(find_weights(spec))
        model = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
        )
        model = getattr(model, "vision_model", model).to(device)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        size = dict(getattr(processor, "crop_size", None) or processor.size)
        side = size.get("height") or size.get("shortest_edge")
        if not side or len(processor.image_mean) != 3:
            raise EditError(f"{spec}: its preprocessor names no square input of three channels")
        return cls(model, list(processor.image_mean), list(processor.image_std), int(side))

    def __call__(self, pictures: Tensor) -> Tensor:
        """pictures (1, 3, H, W) in [-1, 1] -> one unit vector (1, D) float32."""
        seen = F.interpolate((pictures + 1) / 2, (self.side, self.side), mode="bicubic", antialias=True)
        seen = (seen - self.mean.to(seen.device)) / self.std.to(seen.device)
        made = self.model(pixel_values=seen.to(self.model.dtype))
        vector = made.pooler_output if getattr(made, "pooler_output", None) is not None else None
        vector = made.last_hidden_state.mean(1) if vector is None else vector
        return F.normalize(vector.float(), dim=-1)


def latent_crop(x: Tensor, box: Box) -> Tensor:
    """The part of latents (1, C, h, w) under a box, at least one latent in each direction."""
    height, width = x.shape[-2:]
    x0, y0, x1, y1 = box
    left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
    right = max(left + 1, min(width, round(x1 * width)))
    bottom = max(top + 1, min(height, round(y1 * height)))
    return x[..., top:bottom, left:right]


def loss(
    system: System, encoder: FrozenEncoder, guess: Tensor, truth: Tensor, t: Tensor, boxes: list[list[Box]], eta: float
) -> Tensor:
    """λ(σ) (1/N) Σ_i (1 - cos(φ(T_i x̂_0), φ(T_i x_0))) of every row, (B,) float32   [FireRed eq. 7, 8].

    guess    x̂_0 (B, C, h, w), with its gradient; truth x_0 likewise without
    boxes    of every row: T_i crops them, in latents and so out of both pictures alike; none: the whole picture

    The crops go through the autoencoder's decoder, which is computed again in the backward pass.
    """
    scale = weight(eta, t)
    rows = []
    for k in range(len(guess)):
        if not scale[k]:
            rows.append(guess[k].sum() * 0)
            continue
        distances = []
        for box in boxes[k] or [WHOLE]:
            crop = checkpoint(system.pictures, latent_crop(guess[k : k + 1], box), use_reentrant=False)
            with torch.no_grad():
                wanted = encoder(system.pictures(latent_crop(truth[k : k + 1], box)))
            distances.append(1 - (encoder(crop) * wanted).sum())
        rows.append(scale[k] * torch.stack(distances).mean())
    return torch.stack(rows).float()
