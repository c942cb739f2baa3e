"""Sampling with an architecture's network: walks from noise to the image along the learned flow, with guidance."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edittools.errors import UsageError
from edittools.nets.base import Conditioning, EditModel
from edittools.nets.flow import SAMPLER_LINE, euler_times
from edittools.weights.lookup import read_config

_LINE = ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift")


def guided(
    edit_model: EditModel,
    network: Callable[..., Tensor],
    x: Tensor,
    t: float,
    references: list[Tensor],
    conditioning: Conditioning,
    guidance: float,
    negative: Conditioning | None,
) -> Tensor:
    """The velocity (B, C, h, w) float32 at x and t, by one forward pass or, with guidance, by two."""
    at = torch.full((len(x),), t, device=x.device)
    with _cached(edit_model, "cond"):
        v = edit_model.velocity(network(x, at, references, conditioning).float(), x, at)
    if guidance == 1.0 or negative is None:
        return v
    with _cached(edit_model, "uncond"):
        without = edit_model.velocity(network(x, at, references, negative).float(), x, at)
    return edit_model.guide(v, without, guidance, t)


def _cached(edit_model: EditModel, name: str) -> contextlib.AbstractContextManager[None]:
    """What a step cache of diffusers wants to know: which of the two passes this is."""
    transformer = getattr(edit_model.network, "transformer", None)
    if transformer is None or not getattr(transformer, "is_cache_enabled", False):
        return contextlib.nullcontext()
    return transformer.cache_context(name)


@torch.no_grad()
def euler(
    edit_model: EditModel,
    network: Callable[..., Tensor],
    noise: Tensor,
    references: list[Tensor],
    conditioning: Conditioning,
    *,
    steps: int,
    shift: float,
    guidance: float = 1.0,
    negative: Conditioning | None = None,
) -> Tensor:
    """noise (B, C, h, w) and its references -> latents (B, C, h, w) float32.

    guidance   the scale of EditModel.guide(); needs `negative`, the conditioning of the empty instruction
    """
    x = noise
    times: list[float] = euler_times(steps, shift).tolist()
    for t, t_next in itertools.pairwise(times):
        # x(t') = x(t) + (t' - t) v̂   [Euler's method on dx/dt = v]
        x = x + (t_next - t) * guided(edit_model, network, x, t, references, conditioning, guidance, negative)
    return x


@torch.no_grad()
def scheduled(
    edit_model: EditModel,
    network: Callable[..., Tensor],
    noise: Tensor,
    references: list[Tensor],
    conditioning: Conditioning,
    *,
    scheduler: Any,
    sigmas: Sequence[float],
    mu: float,
    guidance: float = 1.0,
    negative: Conditioning | None = None,
) -> Tensor:
    """Like euler(), with a flow-matching scheduler of diffusers, called as the editing pipelines call it.

    sigmas   of the steps, from 1 down; the scheduler shifts them by e^mu and adds the last, 0
    """
    # on the CPU, so that reading a time does not wait for the device
    scheduler.set_timesteps(sigmas=sigmas, mu=mu, device="cpu")
    if not torch.isfinite(scheduler.sigmas).all():  # a stretched schedule has no single step
        raise UsageError(f"--steps {len(sigmas)}: this model's schedule needs more steps")
    scheduler.set_begin_index(0)
    x = noise
    for timestep in scheduler.timesteps:
        t = float(timestep / scheduler.config.get("num_train_timesteps", 1000))
        v = guided(edit_model, network, x, t, references, conditioning, guidance, negative)
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    return x


def scheduler_mu(config: Any, tokens: int) -> float:
    """mu of the shift e^mu that a scheduler is given for so many tokens of the target, by its configuration."""
    n0, mu0, n1, mu1 = (config.get(name, usual) for name, usual in zip(_LINE, SAMPLER_LINE))
    return float(mu0 + (tokens - n0) * (mu1 - mu0) / (n1 - n0))


def scheduler_shift(folder: Path) -> tuple[float, list[float]]:
    """The shift of time that a model's own scheduler makes, as flow.shift_factor() takes it: a factor, or a line.

    FLUX.1's where the folder has no scheduler. Raises UsageError for one whose shift is of another form.
    """
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        return 0.0, list(SAMPLER_LINE)
    config = read_config(folder / "scheduler", "scheduler_config.json")
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0)), []
    if config.get("time_shift_type", "exponential") != "exponential":
        raise UsageError(f"{folder}: a scheduler with time_shift_type {config['time_shift_type']}", hint="set `shift`")
    return 0.0, [float(config.get(name, usual)) for name, usual in zip(_LINE, SAMPLER_LINE)]
