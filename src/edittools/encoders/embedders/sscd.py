"""SSCD, the copy descriptor (Pizzi et al. 2022, "A Self-Supervised Descriptor for Image Copy Detection").

A ResNet-50 (stride in the 3x3 convolution, which transformers has), GeM pooling with p = 3 and a linear layer to 512
numbers. `convert` turns a released `*.torchvision.pt` into safetensors under transformers' names.

The authors give cosine 0.75 for 90% precision (sscd_disc_mixup, on DISC), and recommend to centre or whiten on
images of the target distribution and to normalise scores: see `postprocess`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edittools.encoders.embedder import VisionEmbedder
from edittools.encoders.vision import middle
from edittools.errors import EditError
from edittools.weights.lookup import load_strictly, read_config, read_released, read_tensors, save_converted

MODEL_TYPES = ("sscd",)
COPIES = {"sscd": ("sscd_disc_mixup", 0.75)}  # the authors': 90% precision on DISC21
RELEASES = {
    "sscd_disc_mixup": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchvision.pt",
    "sscd_disc_advanced": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_advanced.torchvision.pt",
    "sscd_disc_blur": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_blur.torchvision.pt",
}
SHORT_EDGE, SQUARE = 288, 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET50 = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]}


def load(folder: Path, name: str, device: str, dtype: str, *, square: bool = False) -> SscdEmbedder:
    """`square`: skewed to 320 x 320, which batches well, instead of a short edge of 288."""
    config = read_config(folder)
    network = SscdNetwork(config["resnet"], config["dim"], config["pool"])
    load_strictly(network, read_tensors(folder), folder)
    return SscdEmbedder(network, _Processor(square), config["dim"], folder, name, device, dtype)


class SscdNetwork(nn.Module):
    """Normalised pixels (B, 3, h, w) -> descriptors (B, dim), not yet of unit length."""

    def __init__(self, resnet: dict[str, Any], dim: int, pool: float) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        self.trunk = ResNetModel(ResNetConfig(**resnet))
        self.projection = nn.Linear(resnet["hidden_sizes"][-1], dim)
        self.pool = pool

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(gem(self.trunk(pixels).last_hidden_state, self.pool))


def gem(features: Tensor, p: float) -> Tensor:
    """Generalised mean over the places of (B, C, h, w): (mean x^p)^(1/p), x at least 1e-6 (Radenovic et al. 2018)."""
    return features.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)


class _Processor:
    """The authors' preprocessing: bilinear resize by Pillow, to [0, 1], ImageNet's mean and deviation."""

    def __init__(self, square: bool) -> None:
        self.square = square

    def __call__(self, *, images: Image.Image, **unused: Any) -> dict[str, Tensor]:
        if self.square:
            size = SQUARE, SQUARE
        else:
            images = middle(images)
            short = min(images.size)
            # As torchvision rounds: down.
            size = int(SHORT_EDGE * images.width / short), int(SHORT_EDGE * images.height / short)
        resized = np.asarray(images.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
        pixels = (resized - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return {"pixel_values": torch.from_numpy(pixels).permute(2, 0, 1)[None]}


class SscdEmbedder(VisionEmbedder):
    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this a `*.torchvision.pt`?"""
    return "backbone.conv1.weight" in released and "backbone.fc.weight" in released


def convert(path: str | Path, folder: str | Path) -> None:
    """A released `sscd_*.torchvision.pt` as a folder that `load_embedder` reads. Raises EditError."""
    save_released(read_released(path), folder, str(path))


def save_released(released: dict[str, Any], folder: str | Path, name: str, resnet: dict[str, Any] = RESNET50) -> None:
    if not recognises(released):
        raise EditError(f"{name}: not SSCD's weights in torchvision's names", hint="take the *.torchvision.pt file")
    tensors = renamed(released)
    dim = len(released["backbone.fc.weight"])
    network = SscdNetwork(resnet, dim, 3.0)
    load_strictly(network, tensors, Path(name))
    save_converted(folder, network.state_dict(), {"model_type": "sscd", "dim": dim, "pool": 3.0, "resnet": resnet})


_RENAMES = (
    (r"conv1", "trunk.embedder.embedder.convolution"),
    (r"bn1", "trunk.embedder.embedder.normalization"),
    (r"layer(\d)\.(\d+)\.conv(\d)", "trunk.encoder.stages.{0}.layers.{1}.layer.{2}.convolution"),
    (r"layer(\d)\.(\d+)\.bn(\d)", "trunk.encoder.stages.{0}.layers.{1}.layer.{2}.normalization"),
    (r"layer(\d)\.(\d+)\.downsample\.0", "trunk.encoder.stages.{0}.layers.{1}.shortcut.convolution"),
    (r"layer(\d)\.(\d+)\.downsample\.1", "trunk.encoder.stages.{0}.layers.{1}.shortcut.normalization"),
    (r"fc", "projection"),
)


def renamed(released: dict[str, Any]) -> dict[str, Any]:
    """torchvision's names to ours, one to one: stages and convolutions count from 1 there, from 0 here."""
    tensors: dict[str, Any] = {}
    for name, tensor in released.items():
        module, _, kind = name.removeprefix("backbone.").rpartition(".")
        for pattern, ours in _RENAMES:
            if match := re.fullmatch(pattern, module):
                stage, block, convolution = (*match.groups(), None, None, None)[:3]
                numbers = (int(stage or 1) - 1, block, int(convolution or 1) - 1)
                tensors[f"{ours.format(*numbers)}.{kind}"] = tensor
                break
        else:
            raise EditError(f"`{name}` is not a weight of SSCD's ResNet-50")
    return tensors
