"""Shared parts of the architectures on FLUX's transformer: tokens, position ids, the call of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edittools.nets.autoencoder import Autoencoder
from edittools.nets.base import Conditioning, EditModel, Once, at_once
from edittools.nets.dit import flux_flops, new_or_stored
from edittools.nets.tokens import patchify, unpatchify

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


def crop_offset(box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Frame, row and column (3,) float32 at which the tokens of a part of an image begin, counted in the whole one.

    box    (4,) left, top, right, bottom of the part, as shares
    grid   rows and columns of its tokens
    """
    left, top, right, bottom = box.float()
    rows, columns = grid[0] / (bottom - top), grid[1] / (right - left)  # of the whole image
    return torch.stack([torch.zeros_like(top), top * rows, left * columns])


class FluxNetwork(nn.Module):
    """`FluxTransformer2DModel` on latents: see EditModel.network. What makes its text stream, a subclass says.

    crop_positions   tokens of a cut image have the positions that they have in the whole one. The transformer takes
                     one set of them for a batch, which then has one row. Published weights never saw that: pipelines
                     and training scripts of diffusers count from the corner of what they are given
    """

    def __init__(
        self, transformer: Any, reference_ids: str, guidance: float | None = None, crop_positions: bool = False
    ) -> None:
        super().__init__()
        self.crop_positions = crop_positions
        self.transformer = transformer
        self.offset = REFERENCE_IDS[reference_ids]
        self.guidance = guidance if transformer.config.guidance_embeds else None

    def text(self, conditioning: Conditioning, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text stream (B, L, joint), pooled vector (B, pooled) and position ids (L, 3)."""
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: Conditioning) -> Tensor:
        grids = [(x.shape[-2] // PATCH, x.shape[-1] // PATCH) for x in (x_t, *references)]
        ids = [grid_ids(*grids[0], (0, 0, 0), x_t.device)]
        for k, grid in enumerate(grids[1:]):
            # further references lie on further frames: ours, the published models have one
            frame, row, column = self.offset
            ids.append(grid_ids(*grid, (frame * (1 + k), row, column), x_t.device))
        if self.crop_positions and "crops" in conditioning:  # else the images are whole
            [crops] = conditioning["crops"]
            ids = [each + crop_offset(box, grid) for each, box, grid in zip(ids, crops, grids)]
        tokens = torch.cat([patchify(x, PATCH) for x in (x_t, *references)], dim=1)
        text, pooled, text_ids = self.text(conditioning, t)
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
        return unpatchify(output[:, : grids[0][0] * grids[0][1]], PATCH, *x_t.shape[-2:])


class FluxEditModel(EditModel):
    patch = multiple = 16  # 8 of the autoencoder, 2 of the transformer
    network: FluxNetwork

    def with_crops(self, made: Conditioning, rows: list[Conditioning]) -> Conditioning:
        """A batch's conditioning, with the parts of their images that its rows are."""
        return made | {"crops": torch.stack([row["crops"] for row in rows])} if "crops" in rows[0] else made

    def use_autoencoder(self, vae: Any) -> None:
        self.autoencoder = Autoencoder(vae)

    def blocks(self) -> list[nn.Module]:
        transformer = self.network.transformer
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        return flux_flops(self.network.transformer.config, image_tokens, target_tokens, text_tokens)


def make_transformer(
    folder: Path, config: dict[str, Any], seed: int, loading: dict[str, Any] | None = None, once: Once = at_once
) -> Any:
    """`FluxTransformer2DModel`, see new_or_stored()."""
    from diffusers import FluxTransformer2DModel

    return new_or_stored(FluxTransformer2DModel, folder, config, seed, loading, once)
