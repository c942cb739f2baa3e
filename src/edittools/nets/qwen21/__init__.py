"""`qwen21`: Qwen-Image-2.1, of any number of references up to ten.

A single-stream transformer over [text | reference | text | ... | target], see layout.py: references stand where
Qwen3-VL, which reads the instruction and the same images, has its own tokens of them. Text and references have t = 0
and see nothing of the target, so that a sampler computes them once. It is sampled without guidance. The autoencoder
has alpha: sources are opaque to it, over white, and results keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from PIL import Image
from torch import Tensor, nn

from edittools.errors import RowError
from edittools.nets.autoencoder import Autoencoder
from edittools.nets.base import Conditioning, EditModel, NetworkPart, Once, at_once, encoder_digests
from edittools.nets.dit import TIME_FREQUENCIES, new_or_stored
from edittools.nets.firered import plus_shape
from edittools.nets.images import WHOLE, Box, resize
from edittools.nets.lora import add_lora
from edittools.nets.qwen21.layout import RowsProcessor, layout, length
from edittools.nets.qwen_states import IMAGE, MOST_RATIO, check_ratios
from edittools.nets.shapes import Shape
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_parts

PIPELINES = ("QwenImage21Pipeline",)
MOST_REFERENCES = 10  # as Qwen says; the pipeline takes any number


def most_references(settings: dict[str, Any]) -> int | None:
    return MOST_REFERENCES


def mixes_references(settings: dict[str, Any]) -> bool:
    return True


def source_limits(settings: dict[str, Any]) -> tuple[int, float]:
    return 1, MOST_RATIO


def sampled_as(settings: dict[str, Any]) -> Callable[[int, int, int], tuple[Shape, Box]]:
    """Whole, scaled to sides of multiples of 32."""
    return lambda height, width, area: (plus_shape(area, width / height), WHOLE)


@dataclass(frozen=True)
class Settings:
    weights: str  # QwenImage21Pipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # train adapters only: the keys of [model.lora]


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> Qwen21:  # fmt: skip
    """Raises EditError that names what is missing."""
    from edittools.nets.qwen21.transformer import RowsTransformer

    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = None
    if network:
        transformer = new_or_stored(RowsTransformer, folder, settings.transformer, seed, loading, once)
    pipe = open_pipeline(folder, dtype, transformer=None).to(device) if encoders else None
    return Qwen21(settings, folder, transformer, pipe, seed)


class Qwen21Autoencoder(Autoencoder):
    """`AutoencoderKLQwenImage21`, frozen: 16 x 16 pixels with alpha to a latent."""

    def encode(self, images: Tensor) -> Tensor:
        """images (B, 3 or 4, H, W) in [-1, 1]; those of three channels are opaque."""
        if images.shape[1] == 3:
            images = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
        return super().encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), over white."""
        made = self.decode_alpha(latents)
        colour, alpha = made[:, :3], (made[:, 3:] + 1) / 2
        return 1 - (1 - colour) * alpha.clamp(0, 1)

    def decode_alpha(self, latents: Tensor) -> Tensor:
        """Images (B, 4, H, W)."""
        return super().decode(latents)


class Qwen21Network(nn.Module):
    """`QwenImage21Transformer2DModel` on latents: see EditModel.network.

    prefixes   of a sampler that calls the network with the same references again and again: what it keeps of text and
               references, by the conditioning; None: nothing is kept
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.keeps_prefixes = bool(transformer.config.causal_condition)
        self.prefixes: dict[int, Any] | None = None
        for block in transformer.transformer_blocks:
            block.attn.set_processor(RowsProcessor())

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        # looked up here: what hands weights around (offloading) calls the transformer with copies of its arguments
        more: dict[str, Any] = {}
        if self.prefixes is not None:
            kept = self.prefixes.get(id(conditioning))
            more["kv_cache_mode"] = "extract" if kept is None else "cached"
            if kept is None:
                kept = self.prefixes[id(conditioning)] = QwenImage21KVCache(len(self.transformer.transformer_blocks))
            more["kv_cache"] = kept
        made: Tensor = self.transformer(x_t, t, references, conditioning, **more)
        return made


class Qwen21(EditModel):
    steps, guidance, negative = 40, 1.0, " "  # the pipeline's
    patch, multiple = 16, 32
    mixed_references = True
    pipeline = PIPELINES[0]
    network: Qwen21Network
    autoencoder: Qwen21Autoencoder | None

    def __init__(self, settings: Settings, folder: Path, transformer: Any, pipe: Any, seed: int) -> None:
        self.settings, self.folder, self.pipe = settings, folder, pipe
        self.autoencoder = None
        if pipe is not None:
            self.autoencoder = Qwen21Autoencoder(pipe.vae)
            # an image has as many tokens there as here, whatever its size
            pipe.processor.image_processor.size = {"shortest_edge": self.multiple**2, "longest_edge": 2**40}
            self.steps = len(pipe.config.get("sample_sigmas") or ()) or self.steps
        if transformer is not None:
            if settings.lora:
                self.adapters = add_lora(transformer, settings.lora, seed)
            self.network = Qwen21Network(transformer)

    def results(self, latents: Tensor) -> Tensor:
        assert self.autoencoder is not None
        return self.autoencoder.decode_alpha(latents)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.network.transformer.config.in_channels, height // self.patch, width // self.patch

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """Qwen3-VL's last states before their norm (L, D) of the text's tokens, and how many of these are before each
        reference and in all, (R + 1,): the system prompt's and the references' are left out.

        Sources have sides of multiples of 32 or are scaled to them; four channels are put over white.
        """
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        check_ratios([source.shape[:2] for sources, _ in rows for source in sources])
        special = self.pipe.processor.tokenizer.all_special_tokens
        for _, text in rows:
            if any(token in text for token in special):
                raise RowError("the instruction holds a special token of the language model", text)
        result = []
        for states, is_image in self._encoded(rows):
            begins = torch.nn.functional.pad(is_image.int(), (1, 0)).diff() == 1
            words = (~is_image).cumsum(0)
            result.append({"states": states[~is_image], "places": torch.cat([words[begins], words[-1:]]).cpu()})
        return result

    @torch.no_grad()
    def _encoded(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[tuple[Tensor, Tensor]]:
        """States (L, D) and which of them are an image's, (L,) bool. As the pipeline's, which gives all of its prompts
        the same images, and computes what the language model would say."""
        pipe, model = self.pipe, self.pipe.text_encoder.model
        shown = [_over_white(_to_multiple(image, self.multiple)) for sources, _ in rows for image in sources]
        inputs = pipe.processor(
            text=[self._prompt(len(sources), text) for sources, text in rows],
            images=shown or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(pipe.text_encoder.device)
        before_norm: list[Tensor] = []
        hook = model.language_model.norm.register_forward_pre_hook(lambda _, given: before_norm.append(given[0]))
        try:
            model(**inputs, use_cache=False)
        finally:
            hook.remove()
        there = inputs["attention_mask"].bool()
        images = inputs["input_ids"] == pipe._img_token_id
        return [
            (states[mask][pipe._drop_idx :], of_image[mask][pipe._drop_idx :])
            for states, of_image, mask in zip(before_norm[0], images, there)
        ]

    def _prompt(self, images: int, text: str) -> str:
        if not images:
            return str(self.pipe.prompt_template_t2i.format(text or " "))
        every = " ".join(f"<image{k}>{IMAGE}" for k in range(1, images + 1))
        return str(self.pipe.prompt_template_ti2i.replace(f"<image1>{IMAGE}", every).format(text or " "))

    def example(self, references: int) -> Conditioning:
        # without places the text is behind the references
        return {"states": torch.zeros(64, self.network.transformer.config.context_in_dim, dtype=torch.bfloat16)}

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        made = super().collate([{"states": row["states"]} for row in rows])
        if "places" not in rows[0]:
            return made
        longest = max(len(row["places"]) for row in rows)
        places = [torch.cat([row["places"], row["places"][-1:].expand(longest - len(row["places"]))]) for row in rows]
        return made | {"places": torch.stack(places)}

    def encoding(self) -> dict[str, str]:
        return encoder_digests(self.folder, "qwen21")

    def blocks(self) -> list[nn.Module]:
        return list(self.network.transformer.transformer_blocks)

    def parts(self) -> dict[str, NetworkPart]:
        config = {**self.network.transformer.config, "_class_name": "QwenImage21Transformer2DModel"}
        return {"transformer": NetworkPart("transformer.", config)}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)

    def row_flops(self, sizes: Sequence[int], text_tokens: int, places: Sequence[int] = (), kept: bool = False) -> int:
        return qwen21_flops(self.network.transformer.config, sizes, text_tokens, places, kept)


def _to_multiple(source: np.ndarray, multiple: int) -> np.ndarray:
    height, width = (max(multiple, round(side / multiple) * multiple) for side in source.shape[:2])
    return resize(source, height, width)


def _over_white(source: np.ndarray) -> Image.Image:
    shown = Image.fromarray(source)
    if shown.mode == "RGB":
        return shown
    white = Image.new("RGB", shown.size, "white")
    white.paste(shown, mask=shown.getchannel("A"))
    return white


def qwen21_flops(
    config: Any, sizes: Sequence[int], text_tokens: int, places: Sequence[int] = (), kept: bool = False
) -> int:
    """Forward pass of `QwenImage21Transformer2DModel` for one row; see EditModel.row_flops()."""
    d, inner = config["num_attention_heads"] * config["attention_head_dim"], config["mlp_ratio"]
    images = [(1, size) for size in sizes[1:]]
    pieces = layout([*(places or [0] * len(images))[: len(images)], text_tokens], images)
    before, target = length(pieces), sizes[0]
    pairs, seen = target * (before + target), 0
    for piece in () if kept else pieces:
        seen += piece.tokens
        pairs += piece.tokens * seen
    computed = target if kept else before + target
    # per token: q, k, v, out (4 d²) and a gated MLP (3 r d²)
    layer = 2 * (4 + 3 * inner) * d * d * computed + 4 * pairs * d
    times = 2 if config["causal_condition"] else 1
    time = times * (TIME_FREQUENCIES * d + d * d + 4 * d * d) + d * d
    said = 0 if kept else text_tokens * (config["context_in_dim"] * d + d * d)
    shown = (target if kept else sum(sizes)) * config["in_channels"] * config["patch_size"] ** 2 * d
    out = target * config["patch_size"] ** 2 * (config["out_channels"] or config["in_channels"]) * d
    return config["num_layers"] * layer + 2 * (time + said + shown + out)
