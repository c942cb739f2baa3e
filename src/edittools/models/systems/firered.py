"""`firered`: FireRed-Image-Edit [SPEC T1c], and every other Qwen-Image-Edit pipeline.

A double-stream transformer over [text | noisy target | references]; the text stream is Qwen2.5-VL's states of the
references and the instruction, the three-axis rotary embedding puts target and references at the same places of
different frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edittools.errors import RowError
from edittools.models.autoencoder import Autoencoder
from edittools.models.diffusers_pipeline import locate_pipeline, open_pipeline, pipeline_class, pipeline_parts
from edittools.models.lora import add_lora
from edittools.models.qwen_states import check_ratios
from edittools.models.shapes import Shape
from edittools.models.systems.base import Conditions, Part, System, describe_encoders
from edittools.models.tokens import to_pixels, to_tokens
from edittools.models.transformers import freeze_unused_qwen, new_or_stored, qwen_flops

PATCH = 2  # latents per token side
PIPELINES = ("QwenImageEditPlusPipeline", "QwenImageEditPipeline")


def most_references(settings: dict[str, Any]) -> int | None:
    name = pipeline_class(locate_pipeline(str(settings.get("weights", "")), PIPELINES))
    return 1 if name == "QwenImageEditPipeline" else None


@dataclass(frozen=True)
class Settings:
    weights: str  # a QwenImageEditPlusPipeline or QwenImageEditPipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # rank, alpha, targets: train adapters only
    clean_references: bool | None = None  # they get time 0 [SPEC T1c]; without: a new transformer's do, else as trained
    legacy_positions: bool = False  # picture tokens with text positions, as diffusers up to 0.42 has them


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, **_: Any,
) -> FireRed:  # fmt: skip
    """Raises EditError that names what is missing."""
    from diffusers import QwenImageTransformer2DModel

    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = None
    if network:
        clean = settings.clean_references
        times = {} if clean is None and not settings.transformer else {"zero_cond_t": clean is not False}
        transformer = new_or_stored(QwenImageTransformer2DModel, folder, settings.transformer, seed, loading, **times)
    pipe = None
    if encoders:
        pipe = open_pipeline(folder, dtype, legacy_positions=settings.legacy_positions, transformer=None).to(device)
    return FireRed(settings, folder, transformer, pipe, seed)


def plus_shape(area: int, ratio: float) -> Shape:
    """The pipelines' shape of about `area` pixels for a ratio W/H, sides multiples of 32; none of them 0."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    width, height = calculate_dimensions(area, ratio)
    return max(32, int(height)), max(32, int(width))


class QwenNetwork(nn.Module):
    """`QwenImageTransformer2DModel` on latents: see System.network."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer: Any = transformer

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditions: Conditions) -> Tensor:
        shapes = [(1, x.shape[-2] // PATCH, x.shape[-1] // PATCH) for x in (x_t, *references)]
        tokens = torch.cat([to_tokens(x, PATCH) for x in (x_t, *references)], dim=1)
        output = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=conditions["states"].to(tokens.dtype),
            encoder_hidden_states_mask=conditions.get("mask"),
            timestep=t,
            img_shapes=[shapes] * len(x_t),
            return_dict=False,
        )[0]
        return to_pixels(output[:, : shapes[0][1] * shapes[0][2]], PATCH, *x_t.shape[-2:])


class FireRed(System):
    steps, guidance, negative = 40, 4.0, " "  # FireRed's and Qwen-Image-Edit-2509's model cards
    patch = 16  # 8 of the autoencoder, 2 of the transformer
    multiple = 32  # the pipeline makes sizes of multiples of 32
    network: QwenNetwork

    def __init__(self, settings: Settings, folder: Path, transformer: Any, pipe: Any, seed: int) -> None:
        self.settings, self.folder, self.pipe = settings, folder, pipe
        self.pipeline = pipeline_class(folder)
        self.autoencoder = Autoencoder(pipe.vae) if pipe is not None else None
        if transformer is not None:
            if settings.lora:
                self.adapters = add_lora(transformer, settings.lora, seed)
            else:
                freeze_unused_qwen(transformer)
            self.network = QwenNetwork(transformer)

    def conditions(self, sources: list[np.ndarray], text: str) -> Conditions:
        """Qwen2.5-VL's last states (L, D) of pictures and instruction, the system prompt's dropped.

        As the pipelines make them: for Plus pictures of about 384² pixels, "Picture 1: ..." before the instruction;
        else one picture of about 1024². Without sources QwenImagePipeline's template and drop index.
        """
        from diffusers import QwenImagePipeline
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        several = self.pipeline == PIPELINES[0]
        if len(sources) > 1 and not several:
            raise RowError(f"{self.pipeline} takes one source picture", len(sources))
        check_ratios([source.shape[:2] for source in sources])
        area = plus.CONDITION_IMAGE_SIZE if several else plus.VAE_IMAGE_SIZE
        with torch.no_grad():
            if not sources:
                plain: Any = QwenImagePipeline(None, None, self.pipe.text_encoder, self.pipe.tokenizer, None)
                states, mask = plain.encode_prompt(prompt=text, device=self.pipe.text_encoder.device)
                return {"states": states[0] if mask is None else states[0][mask[0].bool()]}
            shown = []
            for source in sources:
                height, width = plus_shape(area, source.shape[1] / source.shape[0])
                shown.append(self.pipe.image_processor.resize(Image.fromarray(source), height, width))
            place = self.pipe.text_encoder.device
            states, _ = self.pipe.encode_prompt(image=shown if several else shown[0], prompt=text, device=place)
        return {"states": states[0]}

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, t: float) -> Tensor:
        """As QwenImageEditPlusPipeline: every token is as long as without guidance."""
        combined = to_tokens(super().guide(conditional, unconditional, scale, t), PATCH)
        length = to_tokens(conditional, PATCH).norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True)
        return to_pixels(combined * length, PATCH, *conditional.shape[-2:])

    def example(self, references: int) -> Conditions:
        # pictures of 384² pixels are 196 tokens each
        width = self.network.transformer.config.joint_attention_dim
        return {"states": torch.zeros(64 + 196 * references, width, dtype=torch.bfloat16)}

    def encoding(self) -> dict[str, str]:
        positions = "one-axis positions" if self.settings.legacy_positions else "three-axis positions"
        return describe_encoders(self.folder, "firered", self.pipeline, positions)

    def blocks(self) -> list[nn.Module]:
        return list(self.network.transformer.transformer_blocks)

    def parts(self) -> dict[str, Part]:
        return {"transformer": Part("transformer.", dict(self.network.transformer.config))}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        return qwen_flops(self.network.transformer.config, image_tokens, target_tokens, text_tokens)
