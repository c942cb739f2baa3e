"""Attention of FLUX.2's blocks in batches whose rows have other references: each row over its own tokens, unpadded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2KVAttnProcessor, Flux2KVParallelSelfAttnProcessor
from torch import Tensor


@dataclass(frozen=True)
class PaddedBatch:
    """A batch of B rows of S = text + references + target tokens, the references' padded behind each row's own."""

    text: int  # tokens
    references: int  # tokens of the longest row's
    lengths: list[int]  # of every row's
    rotary: Any  # cosines and sines (B S, D): positions differ
    separate: bool  # references attend to references alone

    def rotate(self, x: Tensor) -> Tensor:
        """Queries or keys (B, S, heads, D)."""
        return apply_rotary_emb(x.flatten(0, 1)[None], self.rotary, sequence_dim=1)[0].view_as(x)

    # sizes that change from batch to batch would be compiled again and again
    @torch.compiler.disable
    def attend(self, query: Tensor, key: Tensor, value: Tensor, backend: Any, cache: Any = None) -> Tensor:
        """Attention of every row, (B, S, heads, D); 0 where padding is.

        cache   keys and values of the references, which then are not in the sequence
        """
        rows = []
        for number, count in enumerate(self.lengths):
            mine = slice(number, number + 1)
            stored = None if cache is None else [x[mine, :count] for x in cache.get()]
            rows.append(self._row(count, query[mine], key[mine], value[mine], backend, stored))
        return torch.cat(rows)

    def _row(self, count: int, query: Tensor, key: Tensor, value: Tensor, backend: Any, stored: Any) -> Tensor:
        begin = self.text
        if stored is not None:
            key, value = (torch.cat([x[:, :begin], kept, x[:, begin:]], dim=1) for x, kept in zip((key, value), stored))
            return dispatch_attention_fn(query, key, value, backend=backend)
        end, behind = begin + count, begin + self.references
        key, value = (torch.cat([x[:, :end], x[:, behind:]], dim=1) for x in (key, value))
        nothing = query.new_zeros(1, behind - end, *query.shape[2:])
        if self.separate and count:
            mine = dispatch_attention_fn(query[:, begin:end], key[:, begin:end], value[:, begin:end], backend=backend)
            others = torch.cat([query[:, :begin], query[:, behind:]], dim=1)
            found = dispatch_attention_fn(others, key, value, backend=backend)
            return torch.cat([found[:, :begin], mine, nothing, found[:, begin:]], dim=1)
        found = dispatch_attention_fn(
            torch.cat([query[:, :end], query[:, behind:]], dim=1), key, value, backend=backend
        )
        return torch.cat([found[:, :end], nothing, found[:, end:]], dim=1)


class DoubleProcessor(Flux2KVAttnProcessor):
    """diffusers' own where the rows are alike."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
        image_rotary_emb: Any = None, kv_cache: Any = None, kv_cache_mode: str | None = None, num_ref_tokens: int = 0,
        rows: PaddedBatch | None = None,
    ) -> Any:  # fmt: skip
        if rows is None:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb, kv_cache, kv_cache_mode,
                num_ref_tokens,
            )  # fmt: skip
        shown = (attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k), (None, attn.to_v)
        said = (attn.norm_added_q, attn.add_q_proj), (attn.norm_added_k, attn.add_k_proj), (None, attn.add_v_proj)
        query, key, value = (
            torch.cat([_heads(attn, x, *layers) for x, layers in zip((encoder_hidden_states, hidden_states), both)], 1)
            for both in zip(said, shown)
        )
        made = _attended(self, rows, query, key, value, image_rotary_emb, kv_cache, kv_cache_mode)
        text, image = made.split_with_sizes([rows.text, made.shape[1] - rows.text], dim=1)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


class SingleProcessor(Flux2KVParallelSelfAttnProcessor):
    """diffusers' own where the rows are alike."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, attention_mask: Any = None, image_rotary_emb: Any = None,
        kv_cache: Any = None, kv_cache_mode: str | None = None, num_txt_tokens: int = 0, num_ref_tokens: int = 0,
        rows: PaddedBatch | None = None,
    ) -> Any:  # fmt: skip
        if rows is None:
            return super().__call__(
                attn, hidden_states, attention_mask, image_rotary_emb, kv_cache, kv_cache_mode, num_txt_tokens,
                num_ref_tokens,
            )  # fmt: skip
        joint = attn.to_qkv_mlp_proj(hidden_states)
        query, key, value, inner = joint.split([attn.inner_dim] * 3 + [joint.shape[-1] - 3 * attn.inner_dim], dim=-1)
        query, key, value = (x.unflatten(-1, (-1, attn.head_dim)) for x in (query, key, value))
        query, key = attn.norm_q(query), attn.norm_k(key)
        made = _attended(self, rows, query, key, value, image_rotary_emb, kv_cache, kv_cache_mode)
        return attn.to_out(torch.cat([made, attn.mlp_act_fn(inner)], dim=-1))


def _heads(attn: Any, x: Tensor, norm: Any, layer: Any) -> Tensor:
    made = layer(x).unflatten(-1, (-1, attn.head_dim))
    return made if norm is None else norm(made)


def _attended(
    processor: Any, rows: PaddedBatch, query: Any, key: Any, value: Any, shared: Any, cache: Any, mode: str | None
) -> Tensor:
    """Heads side by side, (B, S, heads D). shared: rotary embedding of text and target, where references are cached."""
    if mode == "cached":
        query, key = (apply_rotary_emb(x, shared, sequence_dim=1) for x in (query, key))
        return rows.attend(query, key, value, processor._attention_backend, cache).flatten(2).to(query.dtype)
    query, key = rows.rotate(query), rows.rotate(key)
    if mode == "extract" and cache is not None:
        there = slice(rows.text, rows.text + rows.references)
        cache.store(key[:, there].clone(), value[:, there].clone())
    return rows.attend(query, key, value, processor._attention_backend).flatten(2).to(query.dtype)


def set_processors(transformer: Any) -> None:
    """Give a `Flux2Transformer2DModel` the attention of this module."""
    for block in transformer.transformer_blocks:
        block.attn.set_processor(DoubleProcessor())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(SingleProcessor())
