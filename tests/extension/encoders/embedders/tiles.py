"""Tiles: the colours of an image in a coarse grid, as a vector."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edittools.encoders.embedders import normalised
from edittools.weights.digest import folder_digest
from edittools.weights.lookup import read_config, save_converted

MODEL_TYPES = ("tiles",)
COPIES = {"tiles": ("tiles-4", 0.99)}
RELEASES = {"tiles-4": "https://example.org/tiles-4.pth"}


def load(folder: Path, name: str, device: str, dtype: str) -> "Tiles":
    return Tiles(folder, name, read_config(folder)["side"])


class Tiles:
    def __init__(self, folder: Path, name: str, side: int) -> None:
        self.name, self.side, self.dim, self.revision = name, side, 3 * side * side, folder_digest(folder)

    def prepare(self, pixels: Any) -> torch.Tensor:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        small = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, np.float32).ravel() - 127.5)

    def infer(self, prepared: list[torch.Tensor]) -> np.ndarray:
        return normalised(torch.stack(prepared).numpy())

    def images(self, images: list[Any]) -> np.ndarray:
        return self.infer([self.prepare(image) for image in images])


def recognises(released: dict[str, Any]) -> bool:
    """Is this a release of the model? `python -m edittools.convert` asks."""
    return released.keys() == {"tiles.side"}


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    save_converted(folder, released, {"model_type": "tiles", "side": int(released["tiles.side"])})
