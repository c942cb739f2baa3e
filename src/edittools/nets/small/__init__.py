"""`small`: the network of the recipe `demo`, from scratch: pixel patches instead of an autoencoder, a small text
encoder that trains along instead of a language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor, nn

from edittools.errors import UsageError
from edittools.nets.base import Conditioning, EditModel, NetworkPart, Once, at_once
from edittools.nets.dit import freeze_unused_qwen, new_or_stored, qwen_flops, start_at_zero
from edittools.nets.lora import add_lora
from edittools.nets.small.edit_dit import (
    PADDING,
    UNKNOWN,
    EditDiT,
    TextEncoder,
    Vocabulary,
    input_channels,
    output_channels,
)

FROM_SCRATCH = True


@dataclass(frozen=True)
class Settings:
    patch: int  # side of a token, in pixels
    layers: int  # number of blocks of the network
    heads: int  # attention heads of the network
    head_dim: int  # width of a head; the network's width is heads * head_dim
    rope: list[int]  # parts of head_dim that rotate with frame, row and column
    text_width: int  # width of the text encoder
    text_heads: int  # attention heads of the text encoder
    text_layers: int  # number of blocks of the text encoder
    max_words: int  # longest instruction in words; the rest is cut
    clean_references: bool = False  # sources get t = 0 (FireRed 3.1); else the target's t
    predicts: str = "x0"  # what the network predicts: the image "x0" or the velocity "v"
    residual: str = "none"  # with "x0", what is added to the first source: "none", "copy" or "blend"
    word_dropout: float = 0.0  # share of words replaced by the unknown word in training
    weights: str = ""  # run folder of this architecture to start from
    lora: dict[str, Any] = field(default_factory=dict)  # train adapters only: the keys of [model.lora], with `weights`

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise UsageError(f"recipe: {what}")

        for name in ("patch", "layers", "heads", "head_dim", "text_width", "text_heads", "max_words"):
            need(getattr(self, name) > 0, f"`model.{name}` must be positive")
        need(0 <= self.word_dropout <= 1, "`model.word_dropout` must lie in [0, 1]")
        need(
            len(self.rope) == 3 and sum(self.rope) == self.head_dim and not any(r % 2 for r in self.rope),
            "`rope` must be three even numbers that sum to `head_dim`",
        )
        need(self.text_width % self.text_heads == 0, "`text_width` must be a multiple of `text_heads`")
        need(self.predicts in ("x0", "v"), '`predicts` must be "x0" or "v"')
        need(self.residual in ("none", "copy", "blend"), '`residual` must be "none", "copy" or "blend"')
        need(not self.lora or bool(self.weights), "`model.lora`: adapters are of trained `model.weights`, a run folder")
        need(self.predicts == "x0" or self.residual == "none", '`predicts = "v"` needs `residual = "none"`')


def load(
    settings: Settings,
    *,
    seed: int,
    texts: Callable[[], Iterable[str]] | None = None,
    loading: dict[str, Any] | None = None,
    once: Once = at_once,
    **_: Any,
) -> Small:
    """The network with random weights, a function of the seed and the texts' words; or of a run folder.

    Raises UsageError for settings of another network than the run's, EditError for a damaged one.
    """
    if settings.weights:
        folder = Path(settings.weights)
        transformer = new_or_stored(QwenImageTransformer2DModel, folder, {}, seed, loading)
        text = TextEncoder.load(folder / "text_encoder")
        wanted = input_channels(settings.patch, settings.text_width), output_channels(settings.patch, settings.residual)
        if (transformer.config.in_channels, transformer.config.out_channels) != wanted:
            raise UsageError(f"recipe: `model.patch`, `text_width` or `residual` is not that of {folder}")
        made = Small(settings, EditDiT(transformer, text, patch=settings.patch, residual=settings.residual))
        if settings.lora:
            text.requires_grad_(False)
            made.adapters = add_lora(transformer, settings.lora, seed)
        else:
            freeze_unused_qwen(transformer)
        return made
    return Small(settings, once(lambda: _new(settings, seed, texts() if texts else [])))


def _new(settings: Settings, seed: int, texts: Iterable[str]) -> EditDiT:
    vocabulary = Vocabulary.build(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            patch_size=1,  # the patches are made outside: a token is a whole patch
            in_channels=input_channels(settings.patch, settings.text_width),
            out_channels=output_channels(settings.patch, settings.residual),
            num_layers=settings.layers,
            attention_head_dim=settings.head_dim,
            num_attention_heads=settings.heads,
            joint_attention_dim=settings.text_width,
            axes_dims_rope=tuple(settings.rope),
            zero_cond_t=settings.clean_references,
        )
        text = TextEncoder(
            vocabulary,
            width=settings.text_width,
            heads=settings.text_heads,
            layers=settings.text_layers,
            max_words=settings.max_words,
        )
    start_at_zero(transformer)
    freeze_unused_qwen(transformer)
    return EditDiT(transformer, text, patch=settings.patch, residual=settings.residual)


class Small(EditModel):
    """Latents are pixels; conditioning is the numbers of words."""

    conditions_see_references = False

    network: EditDiT

    def __init__(self, settings: Settings, network: EditDiT) -> None:
        self.settings, self.network = settings, network
        self.predicts = settings.predicts
        self.multiple = self.patch = settings.patch

    def latents(self, images: Tensor) -> Tensor:
        return images

    def images(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 3, height, width

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        return {"words": self.network.text.vocabulary.encode([text], self.settings.max_words)[0]}

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        words = [row["words"] for row in rows]
        made = {"words": nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=PADDING)}
        return made | {"crops": torch.stack([row["crops"] for row in rows])} if "crops" in rows[0] else made

    def example(self, references: int) -> Conditioning:
        return {"words": torch.zeros(self.settings.max_words, dtype=torch.long)}

    def augment(self, conditioning: Conditioning, random: torch.Generator) -> Conditioning:
        """Replace a share of the words by the unknown word, so that its vector is trained too."""
        if not self.settings.word_dropout:
            return conditioning
        words = conditioning["words"]
        hit = torch.rand(words.shape, generator=random) < self.settings.word_dropout
        return {**conditioning, "words": torch.where(hit & (words > UNKNOWN), UNKNOWN, words)}

    def words(self) -> list[str]:
        return self.network.text.vocabulary.words

    def encoding(self) -> dict[str, str]:
        return {"latents": "pixels", "conditions": "words"}

    def blocks(self) -> list[nn.Module]:
        return list(self.network.transformer.transformer_blocks)

    def parts(self) -> dict[str, NetworkPart]:
        text = self.network.text
        words = json.dumps(text.vocabulary.words, ensure_ascii=False, indent=0) + "\n"
        return {
            "transformer": NetworkPart("transformer.", dict(self.network.transformer.config)),
            "text_encoder": NetworkPart("text.", text.settings, "model", {"vocab.json": words}),
        }

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        return qwen_flops(self.network.transformer.config, image_tokens, target_tokens, text_tokens)
