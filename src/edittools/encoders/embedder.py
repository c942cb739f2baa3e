"""Base of the embedders: a vision model whose output is a direction."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edittools.encoders.embedders import normalised
from edittools.encoders.vision import ImageLike, VisionModel
from edittools.weights.digest import folder_digest

_BATCH = 32  # images or texts that `images` and `texts` send through the network together


class VisionEmbedder(VisionModel):
    """An Embedder around a network; a backend adds `_forward`."""

    VERSION = 1  # raised by a backend whose code gives other vectors: those that are stored are made again then

    def __init__(
        self, network: Any, processor: Any, dim: int, folder: Path, name: str, device: str, dtype: str
    ) -> None:
        super().__init__(network, processor, device, dtype)
        self.name, self.dim, self.folder = name, dim, folder

    @functools.cached_property
    def revision(self) -> str:
        """Digest of configuration and weights. Reads them once more, so only where it is asked for."""
        return folder_digest(self.folder)

    def infer(self, prepared: list[Tensor]) -> np.ndarray:
        return normalised(super().infer(prepared).reshape(len(prepared), self.dim))

    def images(self, images: list[ImageLike]) -> np.ndarray:
        parts = [
            self.infer([self.prepare(image) for image in images[start : start + _BATCH]])
            for start in range(0, len(images), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)
