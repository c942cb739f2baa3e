"""DINOv2: images by their look alone (Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without
Supervision"). The vector is the class token after the last layer norm."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from edittools.encoders.embedder import VisionEmbedder
from edittools.encoders.vision import image_processor, pretrained

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
COPIES = {"dinov2": ("facebook/dinov2-base", 0.94)}


def load(folder: Path, name: str, device: str, dtype: str) -> DinoEmbedder:
    from transformers import AutoModel

    network = pretrained(AutoModel, folder, dtype)
    return DinoEmbedder(network, image_processor(folder), network.config.hidden_size, folder, name, device, dtype)


class DinoEmbedder(VisionEmbedder):
    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).pooler_output
