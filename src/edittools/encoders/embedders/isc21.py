"""ISC21's winning copy descriptor (Yokoo 2021, "Contrastive Learning with Large Memory Bank and Negative Embedding
Subtraction for Accurate Copy Detection"): EfficientNetV2-M of timm, GeM, a linear layer and batch norm to 256 numbers.

timm brings the trunk, and with it torchvision; where they are not installed this backend says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edittools.encoders.embedder import VisionEmbedder
from edittools.encoders.embedders.sscd import gem
from edittools.errors import EditError, missing_extra
from edittools.weights.lookup import load_strictly, read_config, read_released, read_tensors, save_converted

MODEL_TYPES = ("isc21",)
COPIES = {"isc21": ("isc_ft_v107", 0.604)}  # as DataComp's decontamination
RELEASES = {
    "isc_ft_v107": "https://github.com/lyakaap/ISC21-Descriptor-Track-1st/releases/download/v1.0.1/isc_ft_v107.pth.tar"
}
# What the release calls the trunk, and what timm calls it since 0.9.
TRUNKS = {"tf_efficientnetv2_m_in21ft1k": "tf_efficientnetv2_m.in21k_ft_in1k"}


def load(folder: Path, name: str, device: str, dtype: str) -> IscEmbedder:
    config = read_config(folder)
    network = IscNetwork(config["trunk"], config["dim"])
    load_strictly(network, read_tensors(folder), folder)
    processor = _Processor(config["size"], config["mean"], config["std"])
    return IscEmbedder(network, processor, config["dim"], folder, name, device, dtype)


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError):  # torchvision of another torch raises the second
        raise missing_extra("timm", "isc21", "the ISC21 descriptor") from None
    return timm


class IscNetwork(nn.Module):
    """Normalised pixels (B, 3, h, w) -> descriptors (B, dim), not yet of unit length; GeM with p = 1 as released."""

    def __init__(self, trunk: str, dim: int) -> None:
        super().__init__()
        self.backbone = _timm().create_model(trunk, features_only=True, pretrained=False)
        self.fc = nn.Linear(self.backbone.feature_info.info[-1]["num_chs"], dim, bias=False)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.bn(self.fc(gem(self.backbone(pixels)[-1], 1.0)))


class _Processor:
    """Bilinear resize to a square by Pillow, then the trunk's mean and deviation."""

    def __init__(self, size: int, mean: list[float], std: list[float]) -> None:
        self.square, self.mean, self.std = size, np.array(mean, np.float32), np.array(std, np.float32)

    def __call__(self, *, images: Image.Image, **unused: Any) -> dict[str, Tensor]:
        resized = images.resize((self.square, self.square), Image.Resampling.BILINEAR)
        pixels = (np.asarray(resized, np.float32) / 255 - self.mean) / self.std
        return {"pixel_values": torch.from_numpy(pixels).permute(2, 0, 1)[None]}


class IscEmbedder(VisionEmbedder):
    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this a checkpoint of the release?"""
    return "arch" in released and isinstance(released.get("state_dict"), dict)


def convert(path: str | Path, folder: str | Path) -> None:
    """A released `isc_*.pth.tar` as a folder that `load_embedder` reads. Raises EditError."""
    save_released(read_released(path), folder, str(path))


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    if not recognises(released):
        raise EditError(f"{name}: not a checkpoint of the ISC21 release")
    tensors = {key.removeprefix("module."): tensor for key, tensor in released["state_dict"].items()}
    trunk = TRUNKS.get(released["arch"], released["arch"])
    network = IscNetwork(trunk, len(tensors["fc.weight"]))
    load_strictly(network, tensors, Path(name))
    about = network.backbone.default_cfg
    config = {
        "model_type": "isc21",
        "trunk": trunk,
        "dim": len(tensors["fc.weight"]),
        "size": getattr(released.get("args"), "input_size", 512),
        "mean": list(about["mean"]),
        "std": list(about["std"]),
    }
    save_converted(folder, network.state_dict(), config)
