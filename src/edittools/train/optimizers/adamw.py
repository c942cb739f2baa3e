"""AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"), in torch's fused form."""

from __future__ import annotations

from typing import Any

import torch

from edittools.train.config import Recipe

HELP = "Adam with decoupled weight decay"
KEPT = {"AdamW": 8.0}


def rule(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1]), fused=True)
