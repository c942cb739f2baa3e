"""The moving average of the weights [SPEC T7]."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, k: int, decay: float) -> None:
    """Fold the model's weights after its k-th averaged step (from 1) into the average, in place.

    The average is a true weighted mean of the weights seen, the i-th with weight decay^(k-i): nothing of
    the random start is left in it. decay = 1 is the arithmetic mean.
    """
    # e_k = Σ_i d^(k-i) θ_i / Σ_i d^(k-i)   =>   e_k = e_(k-1) + r_k (θ_k - e_(k-1)),  r_k = (1 - d) / (1 - d^k)
    rate = 1 / k if decay == 1 else (1 - decay) / (1 - decay**k)
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), rate)
