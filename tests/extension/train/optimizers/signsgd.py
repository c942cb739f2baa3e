"""Sign descent (Bernstein et al. 2018, "signSGD"), without momentum or with it (Signum)."""

from typing import Any

import torch

from edittools.train.config import Recipe

HELP = "the signs of the gradient"
KEPT = {"SignSGD": 4.0}  # bytes for each number that is trained
SETTINGS = {"momentum": 0.0}


def rule(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return SignSGD(groups, {"lr": recipe.lr, "momentum": recipe.of_optimizer()["momentum"]})


class SignSGD(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                state["mean"].lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(state["mean"].sign(), alpha=-group["lr"])
