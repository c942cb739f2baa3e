"""The names of FLUX.2's modules in its released files, which files of adapters use, and the sizes of its releases."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KLEIN = {"guidance_embeds": False}
PUBLISHED = {
    "FLUX.2 [dev]": ("Flux2Transformer2DModel", {"guidance_embeds": True}),
    "FLUX.2 [klein] 9B": (
        "Flux2Transformer2DModel",
        {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288, **_KLEIN},
    ),
    "FLUX.2 [klein] 4B": (
        "Flux2Transformer2DModel",
        {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680, **_KLEIN},
    ),
}

_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.linear_in",),
    "img_mlp.2": ("ff.linear_out",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.linear_in",),
    "txt_mlp.2": ("ff_context.linear_out",),
}
_SINGLE = {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)}


def released(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Released names -> diffusers' names, several where one holds them all; nothing for another network."""
    modules = set(modules)
    if "single_stream_modulation.linear" not in modules:
        return {}
    names: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in _ENDS.items()}
    for theirs, ours, inner, first in (
        ("double_blocks", "transformer_blocks", _DOUBLE, "attn.to_q"),
        ("single_blocks", "single_transformer_blocks", _SINGLE, "attn.to_qkv_mlp_proj"),
    ):
        count = sum(bool(re.fullmatch(rf"{ours}\.\d+\.{re.escape(first)}", name)) for name in modules)
        for k in range(count):
            names |= {f"{theirs}.{k}.{a}": tuple(f"{ours}.{k}.{b}" for b in each) for a, each in inner.items()}
    return {theirs: ours for theirs, ours in names.items() if modules.issuperset(ours)}
