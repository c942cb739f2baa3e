"""Where the tokens of a Qwen-Image-2.1 row lie, and attention in batches whose rows lie otherwise.

A row is [text | reference | text | reference | ... | text | target]. Attention is causal, but within an image every
token sees every other. In a batch what is before the target is padded behind each row's own, so that targets begin at
the same token; each row attends over its own tokens, unpadded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21AttnProcessor
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Tokens that lie together: of text, or the rows and columns of an image."""

    rows: int  # 1 of a text
    columns: int
    is_text: bool

    @property
    def tokens(self) -> int:
        return self.rows * self.columns


Layout = tuple[Piece, ...]
"""What is before the target, in order; no piece is empty."""


def layout(places: Sequence[int], images: Sequence[tuple[int, int]]) -> Layout:
    """places: tokens of text before each image, and in all. images: rows and columns of each."""
    pieces, said = [], 0
    for place, (rows, columns) in zip(places, images):
        pieces += [Piece(1, place - said, True), Piece(rows, columns, False)]
        said = place
    pieces.append(Piece(1, places[len(images)] - said, True))
    return tuple(piece for piece in pieces if piece.tokens)


def length(pieces: Layout) -> int:
    return sum(piece.tokens for piece in pieces)


def positions(pieces: Layout, longest: int, target: tuple[int, int]) -> Tensor:
    """Positions (longest + target's tokens, 3) of a padded row: time, row, column.

    A text's tokens count on, on all axes alike. An image stands still in time, its rows and columns are counted from
    its middle, and text after it begins max(rows, columns) later.
    """
    found: list[Tensor] = []
    now = 0
    for piece in (*pieces, Piece(*target, False)):
        if len(found) == len(pieces):  # before the target
            found.append(torch.zeros(longest - length(pieces), 3, dtype=torch.long))
        if piece.is_text:
            found.append((now + torch.arange(piece.tokens))[:, None].expand(-1, 3))
            now += piece.tokens
        else:
            axes = [torch.arange(n) - (n - n // 2) for n in (piece.rows, piece.columns)]
            found.append(torch.cartesian_prod(torch.tensor([now]), *axes))
            now += max(piece.rows, piece.columns)
    return torch.cat(found)


@dataclass(frozen=True)
class BatchLayout:
    """A batch of rows of these layouts."""

    layouts: list[Layout]
    longest: int  # tokens before the target
    groups: dict[Layout, list[int]]  # rows of equal layout, which attend together

    @classmethod
    def of(cls, layouts: list[Layout]) -> BatchLayout:
        groups: dict[Layout, list[int]] = defaultdict(list)
        for number, each in enumerate(layouts):
            groups[each].append(number)
        return cls(layouts, max(map(length, layouts)), groups)

    # sizes that change from batch to batch would be compiled again and again
    @torch.compiler.disable
    def attend(self, query: Tensor, key: Tensor, value: Tensor, backend: Any) -> Tensor:
        """Attention of every row, (B, S, heads, D); of the target's queries alone where there are no others."""
        if len(self.groups) == 1:
            return _attended(query, key, value, self.longest, self.layouts[0], backend)
        found: list[Any] = [None] * len(query)
        for pieces, numbers in self.groups.items():
            few = torch.tensor(numbers, device=query.device)
            made = _attended(query[few], key[few], value[few], self.longest, pieces, backend)
            for number, row in zip(numbers, made):
                found[number] = row
        return torch.stack(found)

    @torch.compiler.disable
    def keep(self, key: Tensor, value: Tensor, cache: Any) -> None:
        cache.store(key[:, : self.longest].clone(), value[:, : self.longest].clone())


class RowsProcessor(QwenImage21AttnProcessor):
    """Its `rotary_emb` is (B, S, D / 2), complex, its `segments` the BatchLayout; see QwenImage21TransformerBlock."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, attention_mask: Any = None, rotary_emb: Any = None,
        layer_cache: Any = None, kv_cache_mode: str | None = None, cache_write_slice: Any = None, segments: Any = None,
        key_valid: Any = None,
    ) -> Tensor:  # fmt: skip
        size = attn.inner_dim // attn.heads
        query, key, value = (
            layer(hidden_states).unflatten(-1, (-1, size)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            _rotated(norm(x).to(value.dtype), rotary_emb) for norm, x in ((attn.norm_q, query), (attn.norm_k, key))
        )
        if kv_cache_mode == "cached":
            key, value = (torch.cat([kept, x], dim=1) for kept, x in zip(layer_cache.get(), (key, value)))
        elif layer_cache is not None:
            segments.keep(key, value, layer_cache)
        found = segments.attend(query, key, value, self._attention_backend)
        return attn.to_out[1](attn.to_out[0](found.flatten(2).type_as(query)))


def _attended(query: Tensor, key: Tensor, value: Tensor, before: int, pieces: Layout, backend: Any) -> Tensor:
    """Attention of rows of one layout."""

    def attended(start: int, end: int, mask: Tensor | None) -> Tensor:
        chosen = backend if mask is None else AttentionBackendName.NATIVE  # some take no mask
        return dispatch_attention_fn(query[:, start:end], key[:, :end], value[:, :end], attn_mask=mask, backend=chosen)

    own, start = length(pieces), 0
    found: list[Tensor] = []
    if query.shape[1] == key.shape[1]:
        for piece in pieces:
            end, mask = start + piece.tokens, None
            if piece.is_text:
                mask = torch.ones(piece.tokens, end, dtype=torch.bool, device=query.device).tril(start)
            found.append(attended(start, end, mask))
            start = end
        found.append(query.new_zeros(len(query), before - own, *query.shape[2:]))
    seen = [torch.cat([x[:, :own], x[:, before:]], dim=1) if own < before else x for x in (key, value)]
    of_target = query[:, -(key.shape[1] - before) :]
    found.append(dispatch_attention_fn(of_target, seen[0], seen[1], backend=backend))
    return torch.cat(found, dim=1)


def _rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """(B, S, heads, D) by (B, S, D / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary[:, :, None]).flatten(3).type_as(x)


def padded(rows: list[Tensor], longest: int) -> Tensor:
    """(L_i, D) -> (B, longest, D)."""
    return torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
