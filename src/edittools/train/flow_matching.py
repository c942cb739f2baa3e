"""Rectified flow in training: noise that is never stored, stratified times (FireRed 3.8), errors and their weights.

Everything random is a pure function of the seed and of what it is for, so a checkpoint holds no random state and
the number of devices changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xxhash
from torch import Tensor

from edittools.nets.flow import shift, shift_factor, velocity
from edittools.train.config import Recipe


def generator(*key: int) -> torch.Generator:
    """A CPU random generator for a key of non-negative integers, equal on every machine."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def noise(seed: int, epoch: int, turn: int, identity: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of one row in one epoch, float32 on the CPU."""
    return torch.randn(shape, generator=generator(seed, epoch, turn, xxhash.xxh64_intdigest(identity.encode())))


def stratified_uniform(seed: int, step: int, rows: int, *part: int) -> Tensor:
    """Uniform numbers (rows,) float64 in (0, 1): exactly one in each of `rows` equal intervals; part: of the step."""
    # u_j = (π_step(j) + r_j) / K,  r_j uniform in (0, 1)   (FireRed 3.8)
    random = generator(seed, step, 1, *part)
    interval = torch.randperm(rows, generator=random)
    inside = torch.rand(rows, generator=random, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return (interval + inside) / rows


def times(recipe: Recipe, u: Tensor, step: int, target_tokens: int) -> Tensor:
    """Uniform numbers -> times t in (0, 1), float32; all maps are monotone, so strata survive.

    "logit-normal" is t = 1 / (1 + exp(-Φ⁻¹(u))), Φ the standard normal distribution. Then follow the shift and the
    curriculum's.
    """
    t = torch.sigmoid(torch.special.ndtri(u)) if recipe.timesteps == "logit-normal" else u
    factor = shift_factor(recipe.shift, recipe.shift_by_tokens, target_tokens)
    return shift(t, factor * curriculum_factor(recipe, step)).float()


def curriculum_factor(recipe: Recipe, step: int) -> float:
    """A further shift towards noise, e^mu at the start and 1 from a share of the steps on (FireRed 3.3).

    The report does not say in which form; ours is linear in mu. Shifts multiply.
    """
    if not recipe.curriculum:
        return 1.0
    mu, share = recipe.curriculum
    return math.exp(mu * max(0.0, 1 - step / (share * recipe.steps)))


def time_weights(recipe: Recipe, t: Tensor) -> Tensor:
    """Weights (B,) float32 of the loss by its time, of mean 1 over uniform times.

    "logit-normal": w(t) = N(logit t; m, s) / (t (1 - t)), the density of the logit-normal distribution (FireRed 3.8).
    The helper of diffusers has the name but returns ones.
    """
    if recipe.weighting == "none":
        return torch.ones_like(t)
    t = t.double().clamp(1e-7, 1 - 1e-7)
    z = (torch.logit(t) - recipe.weighting_mean) / recipe.weighting_deviation
    density = torch.exp(-0.5 * z.square()) / (math.sqrt(2 * math.pi) * recipe.weighting_deviation)
    return (density / (t * (1 - t))).float()


def errors(output: Tensor, x0: Tensor, eps: Tensor, predicts: str, weights: Tensor | float = 1.0) -> Tensor:
    """Squared error of each row, (B,), in float32 at least: the weighted mean over its latents.

    weights     (B, 1, H, W), as region_weights() makes them, or 1
    """
    # "x0": ‖x̂_0 - x_0‖², which is t² ‖v̂ - v‖²;  "v": ‖v̂ - (ε - x_0)‖²
    wanted = x0 if predicts == "x0" else velocity(x0, eps)
    exact = torch.promote_types(output.dtype, torch.float32)
    return (weights * (output.to(exact) - wanted.to(exact)).square()).flatten(1).mean(1)


def mask_weights(masks: Tensor, weight: float) -> Tensor:
    """Weights (B, 1, h, w) of mean 1 in every row: a latent under the mask counts `weight` times one beside it.

    masks   (B, 1, h, w), the share of every latent that the row's mask covers; all ones of a row without a mask
    """
    weights = 1 + (weight - 1) * masks
    return weights / weights.mean((2, 3), keepdim=True).clamp(min=1e-6)


def region_weights(x0: Tensor, source: Tensor) -> Tensor:
    """Weights (B, 1, H, W) that make a small edited region count: 1 outside, more inside the smaller it is.

    x0, source: images, or latents of equal shape, where 18 of 255 is a tenth of the latents' unit deviation.
    """
    # w = log2(A_image / A_edited) + 1 where any channel differs by more than 18 of 255   [UniWorld-V1, 2025]
    edited = ((x0 - source).abs().amax(1, keepdim=True) > 2 * 18 / 255).to(x0.dtype)
    share = edited.mean((1, 2, 3), keepdim=True).clamp(min=1 / edited[0].numel())
    return 1 - edited * torch.log2(share)
