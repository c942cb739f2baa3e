"""`kontext`: FLUX.1 Kontext, the text stream T5's states and the pooled vector CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.nets.base import Conditioning, NetworkPart, Once, at_once, encoder_digests
from edittools.nets.flux import FluxEditModel, FluxNetwork, make_transformer
from edittools.nets.lora import add_lora
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_parts

PIPELINES = ("FluxKontextPipeline",)
TEXT_TOKENS = 512  # FluxKontextPipeline's max_sequence_length; all of them attend, padding too


def most_references(settings: dict[str, Any]) -> int | None:
    return 1  # what FluxKontextPipeline takes


@dataclass(frozen=True)
class Settings:
    weights: str  # FluxKontextPipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # train adapters only: the keys of [model.lora]
    guidance: float = 1.0  # guidance scale given to the distilled model in training
    crop_positions: bool = False  # give tokens of a cropped image their positions in the whole image; one row per batch


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> Kontext:  # fmt: skip
    """Raises EditError that names what is missing."""
    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = make_transformer(folder, settings.transformer, seed, loading, once) if network else None
    pipe = open_pipeline(folder, dtype, transformer=None).to(device) if encoders else None
    return Kontext(settings, folder, transformer, pipe, seed)


class KontextNetwork(FluxNetwork):
    def text(self, conditioning: Conditioning, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = conditioning["states"]
        return states, conditioning["pooled"], torch.zeros(states.shape[1], 3, device=states.device)


class Kontext(FluxEditModel):
    pipeline = "FluxKontextPipeline"
    distilled_guidance = 3.5
    conditions_see_references = False

    def __init__(self, settings: Settings, folder: Path, transformer: Any, pipe: Any, seed: int) -> None:
        self.settings, self.folder, self.pipe = settings, folder, pipe
        self.one_row = settings.crop_positions
        if pipe is not None:
            self.use_autoencoder(pipe.vae)
        if transformer is not None:
            if settings.lora:
                self.adapters = add_lora(transformer, settings.lora, seed)
            self.network = KontextNetwork(transformer, "frame", settings.guidance, settings.crop_positions)

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """T5's states (512, D) and CLIP's pooled vector (P,) of the instruction; the text encoders see no image."""
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        texts = [text for _, text in rows]
        with torch.no_grad():
            states, pooled, _ = self.pipe.encode_prompt(
                prompt=texts, prompt_2=None, device=self.pipe.text_encoder.device, max_sequence_length=TEXT_TOKENS
            )
        return [{"states": of_row, "pooled": vector} for of_row, vector in zip(states, pooled)]

    def example(self, references: int) -> Conditioning:
        config = self.network.transformer.config
        states = torch.zeros(TEXT_TOKENS, config.joint_attention_dim, dtype=torch.bfloat16)
        return {"states": states, "pooled": states.new_zeros(config.pooled_projection_dim)}

    def encoding(self) -> dict[str, str]:
        return encoder_digests(self.folder, "kontext", f"{TEXT_TOKENS} tokens")

    def parts(self) -> dict[str, NetworkPart]:
        return {"transformer": NetworkPart("transformer.", dict(self.network.transformer.config))}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)
