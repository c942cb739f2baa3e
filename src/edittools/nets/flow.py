"""Rectified flow in one place: the line between an image and noise, and the walk back along it.

Time t runs from 0 (the image x0) to 1 (noise ε). Every tensor is (B, ...) and every t is (B,).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _like(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) as (B, 1, 1, ...), so that it multiplies x (B, ...) row by row."""
    return t.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point at time t on the line from image to noise."""
    # x_t = (1 - t) x_0 + t ε
    return (1 - _like(t, x0)) * x0 + _like(t, x0) * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """The line's direction, the same at every t."""
    # v = dx_t/dt = ε - x_0
    return noise - x0


def x0_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The image that velocity v at x_t points away from."""
    # x̂_0 = x_t - t v̂
    return x_t - _like(t, x_t) * v


def velocity_from_x0(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """The velocity that a guess x0 of the image amounts to; t must not be 0."""
    # v̂ = (x_t - x̂_0) / t, the line above solved for v̂
    return (x_t - x0) / _like(t, x_t)


def shift(t: Tensor, factor: float) -> Tensor:
    """Move times towards noise (factor > 1) or the image (< 1); 0 and 1 stay. Monotone in t."""
    # t' = s t / (1 + (s - 1) t), s = e^mu in the exponential form of FLUX and Qwen-Image
    return factor * t / (1 + (factor - 1) * t)


SAMPLER_LINE = (256.0, 0.5, 4096.0, 1.15)
"""What diffusers' scheduler does where its configuration says nothing else: FLUX.1's."""


def shift_factor(fixed: float, line: Sequence[float], tokens: int) -> float:
    """s of shift(): `fixed`, or with a line [n0, mu0, n1, mu1, ...] e^mu, mu linear in the target's number of tokens
    between two of these points, and beyond the ends as beside them.

    Qwen-Image has mu 0.5 at 256 tokens and 0.9 at 8192. With neither, `fixed` 0, the line is SAMPLER_LINE.
    """
    if fixed and not line:
        return fixed
    points = sorted(zip(*[iter(line or SAMPLER_LINE)] * 2))
    place = min(max(1, sum(n < tokens for n, _ in points)), len(points) - 1)
    (n0, mu0), (n1, mu1) = points[place - 1 : place + 1]
    return math.exp(mu0 + (tokens - n0) * (mu1 - mu0) / (n1 - n0))


def euler_times(steps: int, factor: float) -> Tensor:
    """The steps + 1 times of a sampler, float32 from 1 down to 0, shifted as in training."""
    return shift(torch.linspace(1, 0, steps + 1), factor)
