"""Prodigy (Mishchenko and Defazio 2024), which finds its own step; `lr` is a factor, usually 1."""

from __future__ import annotations

from typing import Any

import torch

from edittools.errors import missing_extra
from edittools.train.config import Recipe

HELP = "finds its own step, with an lr of 1"
KEPT = {"Prodigy": 16.0}
GROUP_STATE = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")  # the estimate of the distance and its sums


def rule(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise missing_extra("prodigyopt", "train", "the optimiser `prodigy`") from None
    # the library prints a line for a weight decay that is given at once
    decays = [group.pop("weight_decay") for group in groups]
    betas = (recipe.betas[0], recipe.betas[1])
    optimizer = Prodigy(groups, lr=recipe.lr, betas=betas, weight_decay=0, decouple=True, use_bias_correction=True)
    for group, decay in zip(optimizer.param_groups, decays):
        group["weight_decay"] = decay
    return optimizer
