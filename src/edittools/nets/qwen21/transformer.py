"""Qwen-Image-2.1's transformer for batches whose rows have other references, and texts of other lengths."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache, QwenImage21Transformer2DModel
from torch import Tensor

from edittools.nets.base import Conditioning
from edittools.nets.qwen21.layout import BatchLayout, Layout, layout, padded, positions

CACHED = 8  # layouts whose positions are remembered


class RowsTransformer(QwenImage21Transformer2DModel):  # type: ignore[misc]
    """diffusers' modules, called with a layout for every row: its own forward pass has one for all rows of a batch."""

    _rows_positions: dict[Any, Tensor] | None = None

    def forward(  # type: ignore[override]
        self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning,
        kv_cache: QwenImage21KVCache | None = None, kv_cache_mode: str | None = None,
    ) -> Tensor:  # fmt: skip
        """What EditModel.network is called with, and what it gives; the last two: see diffusers' own forward pass."""
        causal = self.config["causal_condition"]
        target = _tokens(x_t)
        rows = BatchLayout.of(_layouts(len(x_t), references, conditioning))
        hidden = self.img_in(target)
        if kv_cache_mode != "cached":
            before = self._before(hidden.dtype, references, conditioning, rows)
            hidden = torch.cat([before.to(hidden.dtype), hidden], dim=1)
        rotary = self._rotary(rows, (x_t.shape[-2], x_t.shape[-1]), x_t.device)[:, -hidden.shape[1] :]
        times, is_target = t.to(x_t.dtype), None
        if causal:  # all but the target has t = 0
            times = torch.cat([times, times.new_zeros(1)])
            is_target = torch.arange(hidden.shape[1], device=hidden.device) >= hidden.shape[1] - target.shape[1]
        time = self.time_text_embed(times, hidden)
        modulation = self.modulation(time)
        for number, block in enumerate(self.transformer_blocks):
            layer = None if kv_cache is None else kv_cache.get_layer(number)
            given = (hidden, modulation, rotary, None, is_target, layer, kv_cache_mode, None, rows, None)
            again: Any = self._gradient_checkpointing_func if self.gradient_checkpointing else None
            hidden = again(block, *given) if again and torch.is_grad_enabled() else block(*given)
        made = self.norm_out(hidden[:, -target.shape[1] :], time[: len(x_t)])
        return self.proj_out(made).transpose(1, 2).reshape(x_t.shape)

    def _before(
        self, dtype: torch.dtype, references: list[Tensor], conditioning: Conditioning, rows: BatchLayout
    ) -> Tensor:
        """What is before the target, embedded: (B, longest, D)."""
        said = self.txt_in(conditioning["states"].to(dtype))
        shown = [self.img_in(_tokens(x)) for x in references]
        made = []
        for number, pieces in enumerate(rows.layouts):
            found, begin, images = [], 0, 0
            for piece in pieces:
                if piece.is_text:
                    found.append(said[number, begin : begin + piece.tokens])
                    begin += piece.tokens
                    continue
                grid = shown[images][number].unflatten(0, references[images].shape[-2:])
                found.append(grid[: piece.rows, : piece.columns].flatten(0, 1))
                images += 1
            made.append(torch.cat([*found, said.new_zeros(0, said.shape[-1])]))
        return padded(made, rows.longest)

    def _rotary(self, rows: BatchLayout, target: tuple[int, int], device: torch.device) -> Tensor:
        """(B, S, D / 2), complex."""
        known = self._rows_positions = {} if self._rows_positions is None else self._rows_positions
        found = []
        for pieces in rows.layouts:
            key = pieces, rows.longest, target
            if key not in known:
                while len(known) >= CACHED:
                    del known[next(iter(known))]
                known[key] = positions(*key)
            found.append(known[key])
        where, tables = torch.stack(found).to(device), [x.to(device) for x in self.pos_embed.freqs]
        return torch.cat([table[where[..., axis]] for axis, table in enumerate(tables)], dim=-1)


def _layouts(count: int, references: list[Tensor], conditioning: Conditioning) -> list[Layout]:
    sizes = [[(x.shape[-2], x.shape[-1]) for x in references]] * count
    if "sizes" in conditioning:
        sizes = [[(h, w) for h, w in row if h] for row in conditioning["sizes"].tolist()]
    said = conditioning["states"].shape[1]
    usual = [[0] * len(references) + [said]] * count  # the text behind the references
    places = conditioning["places"].tolist() if "places" in conditioning else usual
    return [layout(place, images) for place, images in zip(places, sizes)]


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)
