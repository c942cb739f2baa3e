"""The names of FLUX.1's modules in its released files, and in diffusers' transformer."""

_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE: dict[str, tuple[str, ...]] = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}


def flux_modules(doubles: int, singles: int) -> dict[str, tuple[str, ...]]:
    """FLUX.1's linear modules by their released names -> diffusers' names, several where one holds them all.

    All but the last modulation, whose halves change places: `final_layer.adaLN_modulation.1`.
    """
    fused: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in _ENDS.items()}
    for count, theirs, ours, inner in (
        (doubles, "double_blocks", "transformer_blocks", _DOUBLE),
        (singles, "single_blocks", "single_transformer_blocks", _SINGLE),
    ):
        for k in range(count):
            fused |= {f"{theirs}.{k}.{a}": tuple(f"{ours}.{k}.{name}" for name in names) for a, names in inner.items()}
    return fused
