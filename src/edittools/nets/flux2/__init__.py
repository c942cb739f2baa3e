"""`flux2`: FLUX.2 [dev] and [klein] (Black Forest Labs), of any number of references.

Double- and single-stream blocks over [text | references | noisy target]. Every token has four positions, image, row,
column and place in the text: the target is image 0, references are images 10, 20, 30, ..., each counted from its own
corner; text tokens differ in the last one alone. All 512 text tokens attend, padding too.

| pipeline              | text                                   | guidance                            | steps |
|-----------------------|----------------------------------------|-------------------------------------|-------|
| `Flux2Pipeline`       | Mistral 3, states 10, 20 and 30        | distilled: told the scale, 4        | 50    |
| `Flux2KleinPipeline`  | Qwen3, states 9, 18 and 27             | base: two passes, 4; distilled: none | 50; 4 |
| `Flux2KleinKVPipeline`| likewise                               | distilled: none                     | 4     |

Of the last one references attend to references alone and have t = 0: they are computed once for all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.nets.autoencoder import Autoencoder
from edittools.nets.base import Conditioning, EditModel, NetworkPart, Once, at_once, encoder_digests
from edittools.nets.dit import new_or_stored
from edittools.nets.flux2.attention import PaddedBatch, set_processors
from edittools.nets.images import Box
from edittools.nets.lora import add_lora
from edittools.nets.shapes import Shape, floor
from edittools.weights.diffusers import locate_pipeline, open_pipeline, pipeline_class, pipeline_parts
from edittools.weights.lookup import read_config

PIPELINES = ("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinKVPipeline")
TEXT_TOKENS = 512  # the pipelines' max_sequence_length
STEPS = 50  # the pipelines' num_inference_steps
SMALLEST, MOST_RATIO = 64, 8  # of a source's sides: others are refused by the pipelines
BETWEEN = 10  # images of the first position that lie between two references


def most_references(settings: dict[str, Any]) -> int | None:
    """As Black Forest Labs say; the pipelines take any number."""
    return 10 if _pipeline(settings) == PIPELINES[0] else 4


def mixes_references(settings: dict[str, Any]) -> bool:
    return True


def source_limits(settings: dict[str, Any]) -> tuple[int, float]:
    return SMALLEST, MOST_RATIO


def sampled_as(settings: dict[str, Any]) -> Callable[[int, int, int], tuple[Shape, Box]]:
    return _middle


def _middle(height: int, width: int, area: int) -> tuple[Shape, Box]:
    """Sides cut to multiples of 16, as Flux2ImageProcessor does, of an image that is made smaller where it exceeds an
    area."""
    if height * width > area:
        scale = math.sqrt(area / (height * width))
        height, width = int(height * scale), int(width * scale)
    shape = floor(height, 16), floor(width, 16)
    top, left = ((side - kept) // 2 for side, kept in zip((height, width), shape))
    return shape, (left / width, top / height, (left + shape[1]) / width, (top + shape[0]) / height)


def sampler_line(settings: dict[str, Any]) -> list[float]:
    """The pipelines' shift at their own number of steps: one line up to 4300 tokens, another one beyond."""
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    steps = _steps(locate_pipeline(str(settings.get("weights", "")), PIPELINES))
    return [number for n in (256, 4300, 4301, 16384) for number in (float(n), compute_empirical_mu(n, steps))]


def _pipeline(settings: dict[str, Any]) -> str:
    return pipeline_class(locate_pipeline(str(settings.get("weights", "")), PIPELINES))


def _distilled(folder: Path) -> bool:
    """Is it a model of few steps and no guidance?"""
    usual = pipeline_class(folder) == PIPELINES[2]
    return bool(read_config(folder, "model_index.json").get("is_distilled", usual))


def _steps(folder: Path) -> int:
    return 4 if _distilled(folder) else STEPS


@dataclass(frozen=True)
class Settings:
    weights: str  # Flux2Pipeline, Flux2KleinPipeline or Flux2KleinKVPipeline: a folder, or a name on the hub
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    lora: dict[str, Any] = field(default_factory=dict)  # train adapters only: the keys of [model.lora]
    guidance: float = 1.0  # guidance scale given to the distilled FLUX.2 [dev] in training


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> Flux2:  # fmt: skip
    """Raises EditError that names what is missing."""
    from diffusers import Flux2Transformer2DModel

    folder = locate_pipeline(settings.weights, PIPELINES)
    transformer = None
    if network:
        transformer = new_or_stored(Flux2Transformer2DModel, folder, settings.transformer, seed, loading, once)
    pipe = open_encoders(folder, dtype).to(device) if encoders else None
    return Flux2(settings, folder, transformer, pipe, seed)


def open_encoders(folder: Path, dtype: str) -> Any:
    """The pipeline without its transformer."""
    from diffusers import Flux2KleinPipeline
    from transformers import AutoTokenizer

    # the KV variant's own class cannot be without a transformer
    kind = Flux2KleinPipeline if pipeline_class(folder) == PIPELINES[2] else None
    index = read_config(folder, "model_index.json")
    # FLUX.2 [dev]'s tokenizer lies in a processor of images, which needs torchvision, and no image is seen
    apart = index.get("tokenizer", ["", ""])[1] == "PixtralProcessor"
    left_out: dict[str, Any] = {"tokenizer": None} if apart else {}
    pipe = open_pipeline(folder, dtype, kind=kind, transformer=None, **left_out)
    if apart:
        pipe.register_modules(tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))
    return pipe


class Flux2Autoencoder(Autoencoder):
    """`AutoencoderKLFlux2`, frozen. A latent is what a token is: 2 x 2 of its own latents, 16 x 16 pixels.

    Each of the 4 C channels is normalised by the running mean and variance of the autoencoder's batch norm. They are
    the mode of the encoder's distribution.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae.requires_grad_(False).eval()
        self.channels = 4 * vae.config.latent_channels
        self.factor = 2 ** len(vae.config.block_out_channels)

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        std = (norm.running_var.to(x).view(1, -1, 1, 1) + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.to(x).view(1, -1, 1, 1), std

    def encode(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist.mode().float()
        z = F.pixel_unshuffle(z, 2)
        mean, std = self._scale(z)
        return (z - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        z = latents.to(self.vae.device).float()
        mean, std = self._scale(z)
        return self.vae.decode(F.pixel_shuffle(z * std + mean, 2).to(self.vae.dtype), return_dict=False)[0].float()


def positions(image: int, grid: Sequence[int], device: torch.device) -> Tensor:
    """Positions (rows · columns, 4) of the tokens of an image's grid: image, row, column, 0."""
    axes = [torch.full((1,), image), torch.arange(grid[0]), torch.arange(grid[1]), torch.zeros(1)]
    return torch.cartesian_prod(*(axis.to(device, torch.float32) for axis in axes))


class Flux2Network(nn.Module):
    """`Flux2Transformer2DModel` on latents: see EditModel.network.

    separate   references attend to references alone, with t = 0 (the KV variant of FLUX.2 [klein])
    prefixes   of a sampler that calls the network with the same references again and again: what it keeps of them, by
               the conditioning; None: nothing is kept
    """

    def __init__(self, transformer: Any, guidance: float | None = None, separate: bool = False) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.guidance = guidance if transformer.config.guidance_embeds else None
        self.separate = self.keeps_prefixes = separate
        self.prefixes: dict[int, Any] | None = None
        set_processors(transformer)

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        states, place = conditioning["states"], x_t.device
        target = x_t.flatten(2).transpose(1, 2)
        given: dict[str, Any] = {
            "encoder_hidden_states": states.to(target.dtype),
            "timestep": t,
            "guidance": None if self.guidance is None else torch.full_like(t, self.guidance),
            "txt_ids": F.pad(torch.arange(states.shape[1], device=place).float()[:, None], (3, 0)),
            "return_dict": False,
        }
        ids = positions(0, x_t.shape[-2:], place)
        kept = self.prefixes.get(id(conditioning)) if self.prefixes is not None else None
        if kept is not None:
            cache, rows = kept
            told = {"rows": rows} if rows is not None else {}
            output = self.transformer(
                target, img_ids=ids, kv_cache=cache, kv_cache_mode="cached", joint_attention_kwargs=told, **given
            )[0]
            return self._latents(output, x_t)
        tokens, every, rows = self._sequence(references, conditioning, ids, given["txt_ids"])
        kwargs: dict[str, Any] = {} if rows is None else {"joint_attention_kwargs": {"rows": rows}}
        if self.separate and tokens is not None:
            kwargs |= {"kv_cache_mode": "extract", "num_ref_tokens": tokens.shape[1]}
        hidden = target if tokens is None else torch.cat([tokens, target], dim=1)
        output, *cache = self.transformer(hidden, img_ids=every, **kwargs, **given)
        if cache and self.prefixes is not None:
            self.prefixes[id(conditioning)] = cache[0], rows
        return self._latents(output[:, -target.shape[1] :], x_t)

    def _sequence(
        self, references: list[Tensor], conditioning: Conditioning, ids: Tensor, text_ids: Tensor
    ) -> tuple[Tensor | None, Tensor, PaddedBatch | None]:
        """Tokens of the references (B, R, C), positions of these and of the target; what tells rows apart, if they
        differ: then each row's tokens lie at the front, and each has positions of its own.
        """
        if not references:
            return None, ids, None
        if "sizes" not in conditioning:
            shown = [positions(BETWEEN * (1 + k), x.shape[-2:], ids.device) for k, x in enumerate(references)]
            tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in references], dim=1)
            return tokens, torch.cat([*shown, ids]), None
        rows, placed = [], []
        for number, sizes in enumerate(conditioning["sizes"].tolist()):
            images = [(k, x[number, :, :h, :w]) for k, (x, (h, w)) in enumerate(zip(references, sizes)) if h]
            rows.append(torch.cat([x.flatten(1).T for _, x in images]) if images else references[0].new_zeros(0, 1))
            found = [positions(BETWEEN * (1 + k), x.shape[-2:], ids.device) for k, x in images]
            placed.append(torch.cat([*found, ids.new_zeros(0, 4)]))
        lengths, longest, width = [len(row) for row in rows], max(map(len, rows)), references[0].shape[1]
        tokens = torch.stack([F.pad(row.expand(-1, width), (0, 0, 0, longest - len(row))) for row in rows])
        each = [torch.cat([text_ids, F.pad(of, (0, 0, 0, longest - len(of))), ids]) for of in placed]
        told = PaddedBatch(len(text_ids), longest, lengths, self.transformer.pos_embed(torch.cat(each)), self.separate)
        # the transformer's own positions, which have to be of as many tokens, are not looked at
        return tokens, ids.new_zeros(longest + len(ids), 4), told

    def _latents(self, tokens: Tensor, like: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(like.shape)


class Flux2(EditModel):
    patch = multiple = 16
    mixed_references = True
    conditions_see_references = False
    distilled_guidance = 4.0
    network: Flux2Network

    def __init__(self, settings: Settings, folder: Path, transformer: Any, pipe: Any, seed: int) -> None:
        self.settings, self.folder, self.pipe = settings, folder, pipe
        self.pipeline = pipeline_class(folder)
        self.few_steps = _distilled(folder)
        self.steps = _steps(folder)
        self.guidance = 4.0 if self.pipeline == PIPELINES[1] and not self.few_steps else 1.0
        if pipe is not None:
            self.autoencoder = Flux2Autoencoder(pipe.vae)
        if transformer is not None:
            if settings.lora:
                self.adapters = add_lora(transformer, settings.lora, seed)
            self.network = Flux2Network(transformer, settings.guidance, self.pipeline == PIPELINES[2])

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.network.transformer.config.in_channels, height // self.patch, width // self.patch

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """Three states of the language model side by side, (512, 3 D), of the instruction; it sees no image."""
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        with torch.no_grad():
            states, _ = self.pipe.encode_prompt(
                [text for _, text in rows], device=self.pipe.text_encoder.device, max_sequence_length=TEXT_TOKENS
            )
        return [{"states": of_row} for of_row in states]

    def example(self, references: int) -> Conditioning:
        width = self.network.transformer.config.joint_attention_dim
        return {"states": torch.zeros(TEXT_TOKENS, width, dtype=torch.bfloat16)}

    def encoding(self) -> dict[str, str]:
        return encoder_digests(self.folder, "flux2", f"{TEXT_TOKENS} tokens")

    def blocks(self) -> list[nn.Module]:
        transformer = self.network.transformer
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def parts(self) -> dict[str, NetworkPart]:
        transformer = self.network.transformer
        config = {**transformer.config, "_class_name": type(transformer).__name__}
        return {"transformer": NetworkPart("transformer.", config)}

    def frozen_parts(self) -> dict[str, Path]:
        return pipeline_parts(self.folder)

    def row_flops(self, sizes: Sequence[int], text_tokens: int, places: Sequence[int] = (), kept: bool = False) -> int:
        network = self.network
        return flux2_flops(network.transformer.config, sum(sizes), sizes[0], text_tokens, network.separate, kept)


def flux2_flops(
    config: Any, image_tokens: int, target_tokens: int, text_tokens: int, separate: bool = False, kept: bool = False
) -> int:
    """Forward pass of `Flux2Transformer2DModel` for one row; see EditModel.flops().

    separate   references attend to references alone
    kept       and are not computed, but there
    """
    d, inner = config["num_attention_heads"] * config["attention_head_dim"], config["mlp_ratio"]
    references = image_tokens - target_tokens
    apart = separate and references > 0
    computed = text_tokens + (target_tokens if apart and kept else image_tokens)
    pairs = (text_tokens + target_tokens) * (text_tokens + image_tokens)
    pairs += references * (0 if apart and kept else references if apart else text_tokens + image_tokens)
    # per token: q, k, v, out (4 d²) and a gated MLP (3 r d²), whether in one matrix or several
    blocks = config["num_layers"] + config["num_single_layers"]
    layer = 2 * int((4 + 3 * inner) * d * d) * computed + 4 * pairs * d
    times = 2 if apart and not kept else 1  # references have a time of their own
    embedded = config["timestep_guidance_channels"] * d + d * d
    time = times * embedded * (2 if config["guidance_embeds"] else 1)
    modulation = (6 * (times + 1) + 3 * times) * d * d + 2 * d * d
    shown = computed - text_tokens
    ends = shown * config["in_channels"] + text_tokens * config["joint_attention_dim"]
    out = (target_tokens if apart else shown) * config["patch_size"] ** 2
    out *= config["out_channels"] or config["in_channels"]
    return blocks * layer + 2 * (time + modulation + ends * d + out * d)
