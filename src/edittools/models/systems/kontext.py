"""`kontext`: FLUX.1 Kontext, the text stream T5's states and the pooled vector CLIP's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.models.diffusers_pipeline import locate_pipeline, open_pipeline, pipeline_parts
from edittools.models.lora import add_lora
from edittools.models.systems.base import Conditions, Part, describe_encoders
from edittools.models.systems.flux import FluxNetwork, FluxSystem, make_transformer

PIPELINES = ("FluxKontextPipeline",)
TEXT_TOKENS = 512  # FluxKontextPipeline's max_sequence_length; all of them attend, padding too


def most_references(settings: dict[str, Any]) -> int | None:
    return 1  # what FluxKontextPipeline takes


@dataclass(frozen=True)
class Settings:
    weights: str  # a FluxKontextPipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # rank, alpha, targets: train adapters only
    guidance: float = 1.0  # what the guidance-distilled model is told while it trains


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, **_: Any,
) -> Kontext:  # fmt: skip
    """Raises EditError that names what is missing."""
    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = make_transformer(folder, settings.transformer, seed, loading) if network else None
    pipe = open_pipeline(folder, dtype, transformer=None).to(device) if encoders else None
    return Kontext(settings, folder, transformer, pipe, seed)


class KontextNetwork(FluxNetwork):
    def text(self, conditions: Conditions, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = conditions["states"]
        return states, conditions["pooled"], torch.zeros(states.shape[1], 3, device=states.device)


class Kontext(FluxSystem):
    pipeline = "FluxKontextPipeline"
    distilled_guidance = 3.5

    def __init__(self, settings: Settings, folder: Path, transformer: Any, pipe: Any, seed: int) -> None:
        self.settings, self.folder, self.pipe = settings, folder, pipe
        if pipe is not None:
            self.use_autoencoder(pipe.vae)
        if transformer is not None:
            if settings.lora:
                self.adapters = add_lora(transformer, settings.lora, seed)
            self.network = KontextNetwork(transformer, "frame", settings.guidance)

    def conditions(self, sources: list[np.ndarray], text: str) -> Conditions:
        """T5's states (512, D) and CLIP's pooled vector (P,) of the instruction; the text encoders see no picture."""
        with torch.no_grad():
            states, pooled, _ = self.pipe.encode_prompt(
                prompt=text, prompt_2=None, device=self.pipe.text_encoder.device, max_sequence_length=TEXT_TOKENS
            )
        return {"states": states[0], "pooled": pooled[0]}

    def example(self, references: int) -> Conditions:
        config = self.network.transformer.config
        states = torch.zeros(TEXT_TOKENS, config.joint_attention_dim, dtype=torch.bfloat16)
        return {"states": states, "pooled": states.new_zeros(config.pooled_projection_dim)}

    def encoding(self) -> dict[str, str]:
        return describe_encoders(self.folder, "kontext", f"{TEXT_TOKENS} tokens")

    def parts(self) -> dict[str, Part]:
        return {"transformer": Part("transformer.", dict(self.network.transformer.config))}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)
