"""Images or latents as tokens: square patches, row by row."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> tokens (B, HW/p², C p²), row by row; nothing is lost (space to depth).

    A token's numbers are ordered channel, row, column, as FLUX and Qwen-Image pack their latents with p = 2.
    """
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of patchify; height and width of the result."""
    grid = tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))
    return F.pixel_shuffle(grid, patch)
