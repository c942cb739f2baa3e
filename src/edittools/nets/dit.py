"""What the published transformer classes leave to their user: how they start, what never trains, what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from edittools.errors import EditError, UsageError, describe
from edittools.nets.base import Once, at_once
from edittools.weights.lookup import stored_dtype

TIME_FREQUENCIES = 256  # of the sinusoid that both classes embed the time with


def new_or_stored(
    kind: Any, folder: Path, config: dict[str, Any], seed: int, loading: dict[str, Any] | None, once: Once = at_once,
    **more: Any,
) -> Any:  # fmt: skip
    """A transformer of diffusers: with random weights where a configuration is given, else a folder's `transformer`.

    loading   arguments of its from_pretrained(); without, the precision that it is stored in
    once      see load_edit_model()
    more      what is said of either kind's configuration

    Raises UsageError for what is no configuration, EditError for weights that are missing or damaged.
    """
    if config:
        return once(lambda: _new(kind, {**more, **config}, seed))
    path = folder / "transformer"
    try:
        return kind.from_pretrained(
            path, use_safetensors=True, local_files_only=True, **(loading or {"dtype": stored_dtype(path)}), **more
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = f"{path}: cannot be loaded: {describe(error)}"
        raise EditError(message, hint="config.json beside safetensors") from error


def _new(kind: Any, config: dict[str, Any], seed: int) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            transformer = kind(**config)
    except Exception as error:  # of any class: it is whatever the first wrong value runs into
        raise UsageError(f"recipe: `model.transformer`: not of a {kind.__name__}: {describe(error)}") from error
    start_at_zero(transformer)
    return transformer


def start_at_zero(transformer: Any) -> None:
    """adaLN-Zero (DiT, Peebles and Xie 2023, 3.2): every block starts as the identity and the output as zero.

    The classes do not do this themselves; it is for networks that train from scratch.
    """
    modulations: list[Any] = [transformer.norm_out.linear, transformer.proj_out]
    for module in transformer.modules():
        if hasattr(module, "img_mod"):
            modulations += [module.img_mod[1], module.txt_mod[1]]  # Qwen-Image
        elif type(module).__name__ in ("AdaLayerNormZero", "AdaLayerNormZeroSingle", "Flux2Modulation"):
            modulations.append(module.linear)  # FLUX, FLUX.2
    if isinstance(shared := getattr(transformer, "modulation", None), nn.Sequential):
        modulations.append(shared[1])  # Qwen-Image-2.1
    for layer in modulations:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def freeze_unused_qwen(transformer: Any) -> None:
    """Freeze what never gets a gradient: nothing reads the text output of Qwen-Image's last block."""
    last = transformer.transformer_blocks[-1]
    for dead in (last.attn.add_q_proj, last.attn.norm_added_q, last.attn.to_add_out, last.txt_mlp):
        dead.requires_grad_(False)


def qwen_flops(config: Any, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
    """Forward pass of `QwenImageTransformer2DModel` for one row; see EditModel.flops()."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    # per token and layer: q, k, v, out (4 d²) and an MLP of 4 d (8 d²), in both streams
    tokens = image_tokens + text_tokens
    layer = 2 * 12 * d * d * tokens + 4 * tokens * tokens * d
    times = 2 if config["zero_cond_t"] else 1  # of the image stream's modulation, and of the time itself
    modulation = 2 * 6 * d * d * (times + 1)
    ends = image_tokens * config["in_channels"] + text_tokens * config["joint_attention_dim"]
    out = image_tokens * config["patch_size"] ** 2 * (config["out_channels"] or config["in_channels"])
    time = times * (TIME_FREQUENCIES * d + d * d) + 2 * d * d
    return config["num_layers"] * (layer + modulation) + 2 * (ends * d + out * d + time)


def flux_flops(config: Any, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
    """Forward pass of `FluxTransformer2DModel` for one row; see EditModel.flops()."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = image_tokens + text_tokens
    # double blocks: q, k, v, out and an MLP in both streams; single blocks: q, k, v, MLP in and out: 12 d² as well
    layer = 2 * 12 * d * d * tokens + 4 * tokens * tokens * d
    double = config["num_layers"] * (layer + 2 * 12 * d * d)
    single = config["num_single_layers"] * (layer + 2 * 3 * d * d)
    ends = image_tokens * config["in_channels"] + text_tokens * config["joint_attention_dim"]
    out = image_tokens * config["patch_size"] ** 2 * (config["out_channels"] or config["in_channels"])
    time = TIME_FREQUENCIES * d + d * d + config["pooled_projection_dim"] * d + d * d + 2 * d * d
    if config["guidance_embeds"]:
        time += TIME_FREQUENCIES * d + d * d
    return double + single + 2 * (ends * d + out * d + time)
