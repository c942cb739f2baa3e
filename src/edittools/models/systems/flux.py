"""What the systems on FLUX's transformer share: tokens, position ids, the network's call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edittools.models.autoencoder import Autoencoder
from edittools.models.systems.base import Conditions, System
from edittools.models.tokens import to_pixels, to_tokens
from edittools.models.transformers import flux_flops, new_or_stored

PATCH = 2  # latents per token side

REFERENCE_IDS = {
    # frame, row and column of a reference's tokens; the target's are (0, row, column)
    "target": (0, 0, 0),  # the same as the target's: Step1X-Edit v1.0
    "frame": (1, 0, 0),  # the next frame: Step1X-Edit v1.2, FLUX.1 Kontext
    "shifted": (1, 1, 1),  # the next frame, one row and one column on: Step1X-Edit v1.1
}


def grid_ids(height: int, width: int, offset: tuple[int, int, int], device: torch.device) -> Tensor:
    """Position ids (height·width, 3) float32 of a grid of tokens, row by row: frame, row, column."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    frames = torch.zeros_like(rows)
    ids = torch.stack([frames, rows, columns], dim=-1).flatten(0, 1)
    return (ids + torch.tensor(offset, device=device)).float()


class FluxNetwork(nn.Module):
    """`FluxTransformer2DModel` on latents: see System.network. What makes its text stream, a subclass says."""

    def __init__(self, transformer: Any, reference_ids: str, guidance: float | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.offset = REFERENCE_IDS[reference_ids]
        self.guidance = guidance if transformer.config.guidance_embeds else None

    def text(self, conditions: Conditions, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text stream (B, L, joint), pooled vector (B, pooled) and position ids (L, 3)."""
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditions: Conditions) -> Tensor:
        grids = [(x.shape[-2] // PATCH, x.shape[-1] // PATCH) for x in (x_t, *references)]
        ids = [grid_ids(*grids[0], (0, 0, 0), x_t.device)]
        for k, grid in enumerate(grids[1:]):
            # further references lie on further frames: ours, the published models have one
            frame, row, column = self.offset
            ids.append(grid_ids(*grid, (frame * (1 + k), row, column), x_t.device))
        tokens = torch.cat([to_tokens(x, PATCH) for x in (x_t, *references)], dim=1)
        text, pooled, text_ids = self.text(conditions, t)
        guidance = None if self.guidance is None else torch.full_like(t, self.guidance)
        output = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=text.to(tokens.dtype),
            pooled_projections=pooled.to(tokens.dtype),
            timestep=t,
            guidance=guidance,
            img_ids=torch.cat(ids),
            txt_ids=text_ids,
            return_dict=False,
        )[0]
        return to_pixels(output[:, : grids[0][0] * grids[0][1]], PATCH, *x_t.shape[-2:])


class FluxSystem(System):
    patch = multiple = 16  # 8 of the autoencoder, 2 of the transformer
    network: FluxNetwork

    def use_autoencoder(self, vae: Any) -> None:
        self.autoencoder = Autoencoder(vae)

    def blocks(self) -> list[nn.Module]:
        transformer = self.network.transformer
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        return flux_flops(self.network.transformer.config, image_tokens, target_tokens, text_tokens)


def make_transformer(folder: Path, config: dict[str, Any], seed: int, loading: dict[str, Any] | None = None) -> Any:
    """`FluxTransformer2DModel`, see new_or_stored()."""
    from diffusers import FluxTransformer2DModel

    return new_or_stored(FluxTransformer2DModel, folder, config, seed, loading)
