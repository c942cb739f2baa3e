"""`firered`: FireRed-Image-Edit (its report, 3.1), and every other Qwen-Image-Edit pipeline.

A double-stream transformer over [text | noisy target | references]; the text stream is Qwen2.5-VL's states of the
references and the instruction, the three-axis rotary embedding puts target and references at the same places of
different frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edittools.errors import RowError
from edittools.nets.autoencoder import Autoencoder
from edittools.nets.base import Conditioning, EditModel, NetworkPart, Once, at_once, encoder_digests
from edittools.nets.dit import freeze_unused_qwen, new_or_stored, qwen_flops
from edittools.nets.lora import add_lora
from edittools.nets.qwen_states import IMAGE, check_ratios
from edittools.nets.shapes import Shape
from edittools.nets.tokens import patchify, unpatchify
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_class, pipeline_parts

PATCH = 2  # latents per token side
PIPELINES = ("QwenImageEditPlusPipeline", "QwenImageEditPipeline")


def most_references(settings: dict[str, Any]) -> int | None:
    name = pipeline_class(locate_pipeline(str(settings.get("weights", "")), PIPELINES))
    return 1 if name == "QwenImageEditPipeline" else None


@dataclass(frozen=True)
class Settings:
    weights: str  # QwenImageEditPlusPipeline or QwenImageEditPipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # train adapters only: the keys of [model.lora]
    clean_references: bool | None = None  # sources get t = 0 (FireRed 3.1); unset: as the weights, a new one does
    legacy_positions: bool = False  # positions of image tokens as diffusers up to 0.42 has them


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> FireRed:  # fmt: skip
    """Raises EditError that names what is missing."""
    from diffusers import QwenImageTransformer2DModel

    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = None
    if network:
        clean = settings.clean_references
        new = settings.transformer
        times = {} if clean is None and not new else {"zero_cond_t": clean is not False}
        transformer = new_or_stored(QwenImageTransformer2DModel, folder, new, seed, loading, once, **times)
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
    """`QwenImageTransformer2DModel` on latents: see EditModel.network.

    Its positions are counted from the middle of an image, and images are cut to their middle: tokens have the
    positions that they have in the whole image, to half a token.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer: Any = transformer

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        shapes = [(1, x.shape[-2] // PATCH, x.shape[-1] // PATCH) for x in (x_t, *references)]
        tokens = torch.cat([patchify(x, PATCH) for x in (x_t, *references)], dim=1)
        output = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=conditioning["states"].to(tokens.dtype),
            encoder_hidden_states_mask=conditioning.get("mask"),
            timestep=t,
            img_shapes=[shapes] * len(x_t),
            return_dict=False,
        )[0]
        return unpatchify(output[:, : shapes[0][1] * shapes[0][2]], PATCH, *x_t.shape[-2:])


class FireRed(EditModel):
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

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """Qwen2.5-VL's last states (L, D) of images and instruction, the system prompt's dropped.

        As the pipelines make them: for Plus images of about 384² pixels, "Image 1: ..." before the instruction;
        else one image of about 1024². Without sources QwenImagePipeline's template and drop index.
        """
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        shown = [self._shown(sources) for sources, _ in rows]
        result: dict[int, Conditioning] = {}
        for with_images in (False, True):
            few = [k for k, images in enumerate(shown) if bool(images) == with_images]
            if few:
                made = self._encoded([rows[k][1] for k in few], [shown[k] for k in few])
                result.update((k, {"states": states}) for k, states in zip(few, made))
        return [result[k] for k in range(len(rows))]

    def _shown(self, sources: list[np.ndarray]) -> list[Image.Image]:
        """Sources as the language model sees them. Raises RowError."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        several = self.pipeline == PIPELINES[0]
        if len(sources) > 1 and not several:
            raise RowError(f"{self.pipeline} takes one source picture", len(sources))
        check_ratios([source.shape[:2] for source in sources])
        area = plus.CONDITION_IMAGE_SIZE if several else plus.VAE_IMAGE_SIZE
        shown = []
        for source in sources:
            height, width = plus_shape(area, source.shape[1] / source.shape[0])
            shown.append(self.pipe.image_processor.resize(Image.fromarray(source), height, width))
        return shown

    @torch.no_grad()
    def _encoded(self, texts: list[str], images: list[list[Image.Image]]) -> list[Tensor]:
        """States of rows that all have images, or none of which has any."""
        from diffusers import QwenImagePipeline

        place = self.pipe.text_encoder.device
        if images[0]:
            # One image per prompt is what the pipeline expects of several prompts; further ones are named here. A
            # list it would take for the images of one prompt.
            more = ["".join(f"Picture {n}: {IMAGE}" for n in range(2, len(few) + 1)) for few in images]
            flat = [image for few in images for image in few]
            given = tuple(flat) if self.pipeline == PIPELINES[0] else flat
            prompts = [first + text for first, text in zip(more, texts)]
            states, mask = self.pipe.encode_prompt(image=given, prompt=prompts, device=place)
        else:
            plain: Any = QwenImagePipeline(None, None, self.pipe.text_encoder, self.pipe.tokenizer, None)
            states, mask = plain.encode_prompt(prompt=texts, device=place)
        return [of_row if mask is None else of_row[mask[k].bool()] for k, of_row in enumerate(states)]

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, t: float) -> Tensor:
        """As QwenImageEditPlusPipeline: every token is as long as without guidance."""
        combined = patchify(super().guide(conditional, unconditional, scale, t), PATCH)
        length = patchify(conditional, PATCH).norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True)
        return unpatchify(combined * length, PATCH, *conditional.shape[-2:])

    def example(self, references: int) -> Conditioning:
        # images of 384² pixels are 196 tokens each
        width = self.network.transformer.config.joint_attention_dim
        return {"states": torch.zeros(64 + 196 * references, width, dtype=torch.bfloat16)}

    def encoding(self) -> dict[str, str]:
        positions = "one-axis positions" if self.settings.legacy_positions else "three-axis positions"
        return encoder_digests(self.folder, "firered", self.pipeline, positions)

    def blocks(self) -> list[nn.Module]:
        return list(self.network.transformer.transformer_blocks)

    def parts(self) -> dict[str, NetworkPart]:
        return {"transformer": NetworkPart("transformer.", dict(self.network.transformer.config))}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        return qwen_flops(self.network.transformer.config, image_tokens, target_tokens, text_tokens)
