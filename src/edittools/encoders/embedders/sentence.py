"""Encoders of sentences (MiniLM, bge, mpnet): texts alone, by the mean of their tokens or the first one.

Reimers and Gurevych 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks". Which of the two is said by
`1_Pooling/config.json`, as sentence-transformers writes it; without it, it is the mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.encoders.embedder import _BATCH, VisionEmbedder
from edittools.encoders.embedders import normalised
from edittools.encoders.vision import ImageLike, pretrained
from edittools.errors import EditError, UsageError, describe
from edittools.json_file import read_json

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")
_POOLING = "1_Pooling/config.json"
_MODULES = "modules.json"


def load(folder: Path, name: str, device: str, dtype: str) -> SentenceEmbedder:
    from transformers import AutoModel

    return SentenceEmbedder(pretrained(AutoModel, folder, dtype), folder, name, device, dtype)


def _pooling(said: dict[str, Any], folder: Path) -> str:
    """`cls` or `mean`: what a model's files say is done with the states of its tokens. Raises EditError for anything
    else, and for layers behind it."""
    older = {"cls_token": "cls", "mean_tokens": "mean"}  # a key for each mode, where there is one of all now
    chosen = [name.removeprefix("pooling_mode_") for name, value in said.items() if value is True and "_mode_" in name]
    modes = [older.get(name, name) for name in chosen] or [str(said.get("pooling_mode", "mean"))]
    if modes not in (["cls"], ["mean"]):
        raise EditError(f"{folder}: pooling by {', '.join(modes)} is not known here")
    parts = read_json(folder / _MODULES) if (folder / _MODULES).exists() else []
    kinds = [str(part.get("type", "")).rpartition(".")[2] for part in parts]
    if other := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise EditError(f"{folder}: a layer {other[0]} behind the network is not known here")
    return modes[0]


class SentenceEmbedder(VisionEmbedder):
    """It has vectors of texts, and none of images."""

    def __init__(self, network: object, folder: Path, name: str, device: str, dtype: str) -> None:
        from transformers import AutoTokenizer

        config = network.config  # type: ignore[attr-defined]
        super().__init__(network, None, config.hidden_size, folder, name, device, dtype)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise EditError(f"{folder}: its tokenizer cannot be loaded: {describe(error)}") from error
        if len(self.tokenizer) < config.vocab_size / 2:  # without files transformers makes one of special tokens alone
            raise EditError(f"{folder}: its tokenizer has {len(self.tokenizer)} words of {config.vocab_size}")
        self.longest = min(self.tokenizer.model_max_length, config.max_position_embeddings - 2)  # RoBERTa counts from 2
        said = read_json(folder / _POOLING) if (folder / _POOLING).exists() else {}
        self.first = _pooling(said, folder) == "cls"

    def prepare(self, image: ImageLike) -> Tensor:
        raise UsageError(f"{self.name}: a model of texts, which has no vectors of images")

    def texts(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts, float32 (n, dim), unit; cut at the model's longest."""
        parts = [self._texts(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def _texts(self, texts: list[str]) -> np.ndarray:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        tokens = tokens.to(self.device)
        return normalised(self._guarded(lambda: self._pooled(tokens["input_ids"], tokens["attention_mask"])))

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.first:
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(torch.float32)
        return (hidden.float() * weight).sum(1) / weight.sum(1)
