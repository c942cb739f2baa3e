"""AdamW with its state in 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization")."""

from __future__ import annotations

from typing import Any

import torch

from edittools.train.config import Recipe
from edittools.weights.quiet import open_bitsandbytes

HELP = "its state in 8 bits"
KEPT = {"AdamW8bit": 2.03125}  # two states of a byte, and a scale of each per 256 numbers
CONSTANTS = ("qmap1", "qmap2")
UNSHARDED = "keeps its state in blocks that cannot be sharded"


def rule(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    library = open_bitsandbytes("the optimiser `adamw8bit`")
    return library.optim.AdamW8bit(groups, lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1]))
