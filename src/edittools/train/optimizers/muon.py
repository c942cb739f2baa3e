"""Muon: momentum whose steps are orthogonal matrices (Keller Jordan, https://kellerjordan.github.io/posts/muon).

`torch.optim.Muon` is the same rule, one matrix at a time and always in bfloat16. A CPU emulates bfloat16, which
made the optimiser as slow as the network; here equal shapes go through one batched product, in float32, and
the iteration runs on the smaller of the two square products.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from edittools.train.config import Recipe
from edittools.train.optimizers.adamw import rule  # noqa: F401  # of all that is no matrix of a block
from edittools.train.parallel import full, like

HELP = "block matrices; AdamW for the rest"
KEPT = {"Muon": 4.0, "AdamW": 8.0}
WHOLE = True

# Quintic Newton-Schulz coefficients, chosen by Jordan for the steepest slope at zero.
A, B, C = 3.4445, -4.7750, 2.0315


def block_rule(recipe: Recipe, matrices: list[Tensor]) -> "Muon":
    return Muon(matrices, recipe.muon_lr, recipe.muon_momentum, recipe.weight_decay)


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Matrices (K, m, n) -> the same with all singular values near 1 (0.7 to 1.2), by Newton-Schulz."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonalise(x.mT, steps).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    # X_(k+1) = Q_k X_k with Q = a I + b G + c G², G = X Xᵀ. All Q_k are polynomials in the first G, so they commute:
    # X_K = Q_(K-1) ... Q_0 X_0 and G_(k+1) = Q_k G_k Q_k, which needs no product as long as a row of X.
    gram = x @ x.mT
    product = identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device).expand_as(gram)
    for k in range(steps):
        q = torch.baddbmm(gram, gram, gram, beta=B, alpha=C) + A * identity
        product = q @ product if k else q
        gram = q @ gram @ q if k < steps - 1 else gram
    return product @ x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for parameters that are matrices.

    lr is per matrix times sqrt(max(1, rows / columns)), as in Jordan's code.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the parameters' gradients."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    # m <- μ m + (1 - μ) g;  Nesterov: u = μ m + (1 - μ) g
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(state["momentum"], group["momentum"]))
                scale = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                # of sharded matrices every process orthogonalises the whole and keeps its part
                for p, update in zip(params, orthogonalise(torch.stack([full(u) for u in updates]))):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(like(update, p), alpha=-scale)
