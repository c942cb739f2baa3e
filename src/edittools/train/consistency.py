"""The consistency loss (FireRed, equations 6-8): who was edited still looks like themselves to a frozen encoder.

φ is a face-recognition network or any vision model, T_i an aligned face by the landmarks of the ground truth, or the
box of an object; both are the same for the guess and for the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edittools.encoders.embedders import arcface
from edittools.errors import EditError, UsageError
from edittools.nets.base import EditModel
from edittools.train.rows import Rows, TrainRow
from edittools.weights.lookup import find_weights, read_config

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of width and height
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MARGIN = 2  # latents that are decoded around an aligned face


def weight(eta: float, t: Tensor) -> Tensor:
    """λ(σ) = η σ² for σ < 0.9, else 0   [FireRed eq. 6]"""
    return torch.where(t < 0.9, eta * t.square(), torch.zeros_like(t))


@dataclass(frozen=True)
class FaceLandmarks:
    """Five landmarks of a face, as shares of the image's width and height: left eye, right eye, nose, left and right
    corner of the mouth, as one sees them."""

    landmarks: tuple[tuple[float, float], ...]


class FrozenEncoder:
    """φ: an ArcFace network, or any vision model of transformers that has one vector or a row of states per image
    (DINOv2, CLIP, SigLIP). Differentiable with respect to the image."""

    def __init__(self, model: Any, mean: list[float], std: list[float], side: int, faces_only: bool = False) -> None:
        """faces_only: nothing but an aligned face means anything to it."""
        self.model = model.requires_grad_(False).eval()
        self.faces_only = faces_only
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.side = side

    @classmethod
    def load(cls, spec: str, device: str, dtype: str) -> FrozenEncoder:
        """Raises EditError that says what is missing."""
        from transformers import AutoImageProcessor, AutoModel

        folder = Path(find_weights(spec))
        if read_config(folder).get("model_type") in arcface.MODEL_TYPES:
            network = arcface.load(folder, folder.name, device, dtype).network
            return cls(network, [0.5] * 3, [0.5] * 3, arcface.SIDE, faces_only=True)
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

    def check(self, rows: Rows) -> None:
        """Raises UsageError where no row has what this encoder looks at."""
        if self.faces_only and not any(rows[k].faces for k in range(len(rows))):
            raise UsageError("`consistency`: no row has `faces`, and the encoder recognises nothing else")

    def __call__(self, images: Tensor) -> Tensor:
        """images (1, 3, H, W) in [-1, 1] -> one unit vector (1, D), in float32 at least."""
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bicubic", antialias=True)
        seen = ((images + 1) / 2 - self.mean.to(images)) / self.std.to(images)
        if self.faces_only:
            vector = self.model(seen.to(next(self.model.parameters()).dtype))
        else:
            made = self.model(pixel_values=seen.to(self.model.dtype))
            vector = made.pooler_output if getattr(made, "pooler_output", None) is not None else None
            vector = made.last_hidden_state.mean(1) if vector is None else vector
        return F.normalize(vector.to(torch.promote_types(vector.dtype, torch.float32)), dim=-1)


def regions(row: TrainRow, box: Box, encoder: FrozenEncoder) -> list[Box | FaceLandmarks]:
    """What of a row's target is compared: its faces, else its objects, within the part of it that is shown.

    box     that part, as shares of the target
    A face that is cut is left out. Without any region the whole image is compared, unless the encoder knows faces
    only.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    found: list[Box | FaceLandmarks] = []
    for landmarks in row.faces:
        placed = tuple(((x - left) / width, (y - top) / height) for x, y in landmarks)
        if all(0 <= x <= 1 and 0 <= y <= 1 for x, y in placed):
            found.append(FaceLandmarks(placed))
    if found or encoder.faces_only:
        return found
    for x0, y0, x1, y1 in row.boxes:
        inside = (
            max(0.0, (x0 - left) / width),
            max(0.0, (y0 - top) / height),
            min(1.0, (x1 - left) / width),
            min(1.0, (y1 - top) / height),
        )
        if inside[0] < inside[2] and inside[1] < inside[3]:
            found.append(inside)
    return found or [WHOLE]


def latent_crop(x: Tensor, box: Box) -> Tensor:
    """The part of latents (1, C, h, w) under a box, at least one latent in each direction."""
    height, width = x.shape[-2:]
    x0, y0, x1, y1 = box
    left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
    right = max(left + 1, min(width, round(x1 * width)))
    bottom = max(top + 1, min(height, round(y1 * height)))
    return x[..., top:bottom, left:right]


def face_crop(edit_model: EditModel, latents: Tensor, face: FaceLandmarks, side: int) -> Tensor:
    """The aligned face (1, 3, side, side) of latents (1, C, h, w), differentiable.

    Only what is around the face is decoded.
    """
    height, width = latents.shape[-2:]
    points = np.array(face.landmarks) * [width, height]  # in latents
    inverse = np.linalg.inv(np.concatenate([arcface.similarity(points, arcface.CANONICAL), [[0.0, 0.0, 1.0]]]))[:2]
    ends = np.array([[x, y, 1.0] for x in (0, arcface.SIDE) for y in (0, arcface.SIDE)]) @ inverse.T
    left, top = np.clip(np.floor(ends.min(0)) - MARGIN, 0, [width - 1, height - 1]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(ends.max(0)) + MARGIN, 1, [width, height]).astype(int).tolist()
    images = edit_model.images(latents[..., top:bottom, left:right])
    factor = images.shape[-1] / (right - left)
    return arcface.align(images, (points - [left, top]) * factor, side)


def loss(
    edit_model: EditModel, encoder: FrozenEncoder, guess: Tensor, truth: Tensor, t: Tensor,
    regions: Sequence[Sequence[Box | FaceLandmarks]], eta: float,
) -> Tensor:  # fmt: skip
    """λ(σ) (1/N) Σ_i (1 - cos(φ(T_i x̂_0), φ(T_i x_0))) of every row, (B,), in float32 at least   [FireRed eq. 7, 8].

    guess    x̂_0 (B, C, h, w), with its gradient; truth x_0 likewise without
    regions  of every row: T_i aligns a face, or crops a box; a row without any has no such loss

    The crops go through the autoencoder's decoder, which is computed again in the backward pass.
    """

    def seen(latents: Tensor, region: Box | FaceLandmarks) -> Tensor:
        if isinstance(region, FaceLandmarks):
            return face_crop(edit_model, latents, region, encoder.side)
        return edit_model.images(latent_crop(latents, region))

    scale = weight(eta, t)
    rows = []
    for k in range(len(guess)):
        if not scale[k] or not regions[k]:
            rows.append(guess[k].sum() * 0)
            continue
        distances = []
        for region in regions[k]:
            crop = checkpoint(seen, guess[k : k + 1], region, use_reentrant=False)
            with torch.no_grad():
                wanted = encoder(seen(truth[k : k + 1], region))
            distances.append(1 - (encoder(crop) * wanted).sum())
        rows.append(scale[k] * torch.stack(distances).mean())
    return torch.stack(rows)
