"""CLIP and SigLIP (also SigLIP 2 of fixed resolution): images and texts in one space.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; Zhai et al. 2023,
"Sigmoid Loss for Language Image Pre-Training".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from edittools.encoders.embedder import _BATCH, VisionEmbedder
from edittools.encoders.embedders import normalised
from edittools.encoders.vision import image_processor, pretrained
from edittools.errors import EditError, describe

MODEL_TYPES = ("clip", "siglip")
COPIES = {"clip": ("openai/clip-vit-large-patch14", 0.94)}  # as clip-retrieval


def load(folder: Path, name: str, device: str, dtype: str) -> ClipEmbedder:
    from transformers import AutoModel

    return ClipEmbedder(pretrained(AutoModel, folder, dtype), folder, name, device, dtype)


class ClipEmbedder(VisionEmbedder):
    """Vectors are the projected ones, which are compared across images and texts."""

    def __init__(self, network: object, folder: Path, name: str, device: str, dtype: str) -> None:
        from transformers import AutoTokenizer

        config = network.config  # type: ignore[attr-defined]
        self.siglip = config.model_type == "siglip"
        dim = config.vision_config.hidden_size if self.siglip else config.projection_dim
        super().__init__(network, image_processor(folder), dim, folder, name, device, dtype)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise EditError(f"{folder}: its tokenizer cannot be loaded: {describe(error)}") from error
        self.longest = config.text_config.max_position_embeddings
        self.scale = float(network.logit_scale.detach().float().exp())  # type: ignore[attr-defined]
        self.bias = float(network.logit_bias.detach()) if self.siglip else 0.0  # type: ignore[attr-defined]

    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network.get_image_features(pixel_values=pixels).pooler_output

    def texts(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts; equal texts go in once."""
        once = list(dict.fromkeys(texts))
        parts = [self._texts(once[start : start + _BATCH]) for start in range(0, len(once), _BATCH)]
        if not parts:
            return np.zeros((0, self.dim), np.float32)
        found = dict(zip(once, np.concatenate(parts)))
        return np.stack([found[text] for text in texts])

    def probabilities(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """How likely it is that an image (n, dim) is of a text (m, dim), unit vectors -> float64 (n, m), as the model
        was trained: CLIP's add up to 1 over the texts, SigLIP's stand each for itself."""
        logits = self.scale * (images.astype(np.float64) @ texts.T.astype(np.float64)) + self.bias
        if self.siglip:
            return 1 / (1 + np.exp(-logits))
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def _texts(self, texts: list[str]) -> np.ndarray:
        # SigLIP was trained on padded texts and has no mask for the padding; CLIP looks back only, from the last word.
        padding = "max_length" if self.siglip else True
        tokens = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.device)
        given = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
        if self.siglip:
            given.pop("attention_mask", None)
        return normalised(self._guarded(lambda: self.network.get_text_features(**given).pooler_output))
