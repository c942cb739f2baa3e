"""Face recognition as in ArcFace (Deng et al. 2019): an IR-ResNet over aligned faces of 112 x 112 pixels.

`convert` turns the `backbone.pth` of insightface's arcface_torch (18 to 200 layers) into safetensors; the names stay. A
face is aligned by five landmarks (`align`): left eye, right eye, nose, left and right corner of the mouth, as seen in
the image.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edittools.encoders.embedder import VisionEmbedder
from edittools.errors import EditError
from edittools.weights.lookup import load_strictly, read_config, read_released, read_tensors, save_converted

MODEL_TYPES = ("arcface",)
SIDE = 112
# Where the five landmarks of an aligned face are, in pixels x, y: what published recognition networks were trained on.
CANONICAL = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                      [70.7299, 92.2041]])  # fmt: skip


def load(folder: Path, name: str, device: str, dtype: str) -> ArcFaceEmbedder:
    config = read_config(folder)
    network = ArcFaceNetwork(config["widths"], config["depths"], config["dim"])
    load_strictly(network, read_tensors(folder), folder)
    return ArcFaceEmbedder(network, _Processor(), config["dim"], folder, name, device, dtype)


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution, norm, beside a shortcut; no activation after their sum."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, outside, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(outside), nn.PReLU(outside)
        self.conv2, self.bn3 = nn.Conv2d(outside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class ArcFaceNetwork(nn.Module):
    """Aligned faces (B, 3, 112, 112) in [-1, 1] -> descriptors (B, dim), not yet of unit length."""

    def __init__(self, widths: list[int], depths: list[int], dim: int) -> None:
        super().__init__()
        inside = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(3, inside, 3, 1, 1, bias=False), nn.BatchNorm2d(inside)
        self.prelu = nn.PReLU(inside)
        self.depth = len(depths)
        for stage, (width, depth) in enumerate(zip(widths, depths), 1):
            blocks = [Block(inside if k == 0 else width, width, 2 if k == 0 else 1) for k in range(depth)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inside = width
        self.bn2 = nn.BatchNorm2d(inside)
        self.fc = nn.Linear(inside * (SIDE // 2**self.depth) ** 2, dim)
        self.features = nn.BatchNorm1d(dim)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        for stage in range(1, self.depth + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


class _Processor:
    """A face that is aligned already: resized to 112 x 112, in [-1, 1]."""

    def __call__(self, *, images: Image.Image, **unused: Any) -> dict[str, Tensor]:
        pixels = np.asarray(images.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
        return {"pixel_values": torch.from_numpy(pixels).permute(2, 0, 1)[None]}


class ArcFaceEmbedder(VisionEmbedder):
    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


# ---------------------------------------------------------------- alignment


def similarity(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The turn, scale and shift (2, 3) that takes points (N, 2) nearest to wanted ones: least squares, no mirroring."""
    # Umeyama 1991, eq. 40-42: Σ = U D Vᵀ of the covariance, R = U S Vᵀ, c = tr(D S) / σ²
    mean, wanted_mean = points.mean(0), wanted.mean(0)
    left, spread, right = np.linalg.svd((wanted - wanted_mean).T @ (points - mean) / len(points))
    sign = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    turn = left * sign @ right
    scale = (spread * sign).sum() / ((points - mean) ** 2).sum(1).mean()
    return np.concatenate([scale * turn, (wanted_mean - scale * turn @ mean)[:, None]], axis=1)


def align(images: Tensor, landmarks: np.ndarray, side: int = SIDE) -> Tensor:
    """The face of images (B, 3, H, W), differentiable, as (B, 3, side, side), float32 at least; black where
    the image has ended.

    landmarks   (5, 2): x, y in pixels, a pixel's middle at a half; the same for all images
    """
    to_face = similarity(landmarks, CANONICAL * side / SIDE)
    # a large face is sampled more finely than it is shown, and averaged: no aliasing
    finer = max(1, math.ceil(1 / math.sqrt(abs(np.linalg.det(to_face[:, :2])))))
    inverse = np.linalg.inv(np.concatenate([to_face, [[0.0, 0.0, 1.0]]]))[:2]
    at = (np.arange(side * finer) + 0.5) / finer
    x, y = np.meshgrid(at, at)
    places = np.stack([x, y, np.ones_like(x)], -1) @ inverse.T  # in pixels of the image
    height, width = images.shape[-2:]
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    grid = torch.from_numpy(places / np.array([width, height]) * 2 - 1).to(images)
    sampled = F.grid_sample(images + 1, grid.expand(len(images), -1, -1, -1), align_corners=False) - 1
    return F.avg_pool2d(sampled, finer)


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this a backbone of arcface_torch?"""
    return {"conv1.weight", "prelu.weight", "layer1.0.bn3.weight", "fc.weight", "features.weight"} <= released.keys()


def convert(path: str | Path, folder: str | Path) -> None:
    """A released `backbone.pth` as a folder that `load_embedder` reads. Raises EditError."""
    save_released(read_released(path), folder, str(path))


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    if not recognises(released):
        raise EditError(f"{name}: not a backbone of arcface_torch", hint="take its backbone.pth")
    found = [re.fullmatch(r"layer(\d+)\.(\d+)\.conv2\.weight", key) for key in released]
    blocks = [(int(match[1]), int(match[2])) for match in found if match]
    depths = [sum(stage == number for stage, _ in blocks) for number in range(1, max(stage for stage, _ in blocks) + 1)]
    widths = [len(released[f"layer{stage}.0.conv2.weight"]) for stage in range(1, len(depths) + 1)]
    dim = len(released["fc.weight"])
    config = {"model_type": "arcface", "widths": widths, "depths": depths, "dim": dim}
    network = ArcFaceNetwork(widths, depths, dim)
    load_strictly(network, released, Path(name))
    save_converted(folder, network.state_dict(), config)
