"""Sampling with a system's network: Euler's method on the trained flow, with guidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edittools.models.flow import euler_times
from edittools.models.systems.base import Conditions, System


@torch.no_grad()
def euler(
    system: System,
    network: Callable[..., Tensor],
    noise: Tensor,
    references: list[Tensor],
    conditions: Conditions,
    *,
    steps: int,
    shift: float,
    guidance: float = 1.0,
    negative: Conditions | None = None,
) -> Tensor:
    """noise (B, C, h, w) and its references -> latents (B, C, h, w) float32.

    guidance   the scale of System.guide(); needs `negative`, the conditions of the empty instruction
    """
    x = noise
    times: Any = euler_times(steps, shift).tolist()
    for t, t_next in itertools.pairwise(times):
        at = torch.full((len(x),), t, device=x.device)
        v = system.velocity(network(x, at, references, conditions).float(), x, at)
        if guidance != 1.0 and negative is not None:
            without = system.velocity(network(x, at, references, negative).float(), x, at)
            v = system.guide(v, without, guidance, t)
        # x(t') = x(t) + (t' - t) v̂   [Euler's method on dx/dt = v]
        x = x + (t_next - t) * v
    return x
