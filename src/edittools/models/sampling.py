"""Sampling with a system's network: walks from noise to the picture along the learned flow, with guidance."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools.errors import UsageError
from edittools.models.flow import euler_times
from edittools.models.systems.base import Conditions, System


def guided(
    system: System,
    network: Callable[..., Tensor],
    x: Tensor,
    t: float,
    references: list[Tensor],
    conditions: Conditions,
    guidance: float,
    negative: Conditions | None,
) -> Tensor:
    """The velocity (B, C, h, w) float32 at x and t, by one forward pass or, with guidance, by two."""
    at = torch.full((len(x),), t, device=x.device)
    with _cached(system, "cond"):
        v = system.velocity(network(x, at, references, conditions).float(), x, at)
    if guidance == 1.0 or negative is None:
        return v
    with _cached(system, "uncond"):
        without = system.velocity(network(x, at, references, negative).float(), x, at)
    return system.guide(v, without, guidance, t)


def _cached(system: System, name: str) -> contextlib.AbstractContextManager[None]:
    """What a step cache of diffusers wants to know: which of the two passes this is."""
    transformer = getattr(system.network, "transformer", None)
    if transformer is None or not getattr(transformer, "is_cache_enabled", False):
        return contextlib.nullcontext()
    return transformer.cache_context(name)


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
    times: list[float] = euler_times(steps, shift).tolist()
    for t, t_next in itertools.pairwise(times):
        # x(t') = x(t) + (t' - t) v̂   [Euler's method on dx/dt = v]
        x = x + (t_next - t) * guided(system, network, x, t, references, conditions, guidance, negative)
    return x


@torch.no_grad()
def scheduled(
    system: System,
    network: Callable[..., Tensor],
    noise: Tensor,
    references: list[Tensor],
    conditions: Conditions,
    *,
    scheduler: Any,
    steps: int,
    guidance: float = 1.0,
    negative: Conditions | None = None,
) -> Tensor:
    """Like euler(), with a flow-matching scheduler of diffusers, called as the editing pipelines call it."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

    wanted = scheduler.config
    tokens = noise.shape[-2] * noise.shape[-1] // 4  # of the target alone; both FLUX and Qwen-Image have 2 x 2 latents
    mu = calculate_shift(
        tokens,
        wanted.get("base_image_seq_len", 256),
        wanted.get("max_image_seq_len", 4096),
        wanted.get("base_shift", 0.5),
        wanted.get("max_shift", 1.15),
    )
    # The pipelines of diffusers start at sigma 1 and end one step before 0, which the scheduler adds. On the CPU, so
    # that reading a time does not wait for the device.
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device="cpu")
    if not torch.isfinite(scheduler.sigmas).all():  # a stretched schedule has no single step
        raise UsageError(f"--steps {steps}: this model's schedule needs more steps")
    scheduler.set_begin_index(0)
    x = noise
    for timestep in scheduler.timesteps:
        t = float(timestep / wanted.get("num_train_timesteps", 1000))
        v = guided(system, network, x, t, references, conditions, guidance, negative)
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    return x
