"""The training objective: rectified flow [SPEC T2] at stratified times [T6], with noise that is never stored.

Everything random is a pure function of (seed, step), so a checkpoint holds no random state.
"""

import numpy as np
import torch
from torch import Tensor

from edittools.models.flow import shift, velocity


def generator(*key: int) -> torch.Generator:
    """A CPU random generator for a key of non-negative integers, equal on every machine."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def noise(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of one step, float32 on the CPU."""
    return torch.randn(shape, generator=generator(seed, step, 0))


def strata(seed: int, step: int, batch: int) -> Tensor:
    """Uniform numbers (batch,) float64 in (0, 1): exactly one in each of `batch` equal intervals."""
    # u_j = (π_step(j) + r_j) / K,  r_j uniform in (0, 1)   [SPEC T6]
    random = generator(seed, step, 1)
    interval = torch.randperm(batch, generator=random)
    inside = torch.rand(batch, generator=random, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return (interval + inside) / batch


def times(u: Tensor, density: str, shift_by: float) -> Tensor:
    """Uniform numbers -> times t in (0, 1) of the wanted density; both maps are monotone, so strata survive.

    density     "uniform", or "logit-normal": t = 1 / (1 + exp(-Φ⁻¹(u))), Φ the standard normal distribution
    """
    t = torch.sigmoid(torch.special.ndtri(u)) if density == "logit-normal" else u
    return shift(t, shift_by).float()


def errors(output: Tensor, x0: Tensor, eps: Tensor, predicts: str, weights: Tensor | float = 1.0) -> Tensor:
    """Squared error of each row, (B,): the weighted mean over its pixels and channels, scale of [-1, 1]².

    weights     (B, 1, H, W), as region_weights() makes them, or 1
    """
    # "x0": ‖x̂_0 - x_0‖², which is t² ‖v̂ - v‖²;  "v": ‖v̂ - (ε - x_0)‖²   [SPEC T2]
    wanted = x0 if predicts == "x0" else velocity(x0, eps)
    return (weights * (output - wanted).square()).flatten(1).mean(1)


def region_weights(x0: Tensor, source: Tensor) -> Tensor:
    """Weights (B, 1, H, W) that make a small edited region count: 1 outside, more inside the smaller it is."""
    # w = log2(A_picture / A_edited) + 1 where any channel differs by more than 18 of 255   [UniWorld-V1, 2025]
    edited = ((x0 - source).abs().amax(1, keepdim=True) > 2 * 18 / 255).to(x0.dtype)
    share = edited.mean((1, 2, 3), keepdim=True).clamp(min=1 / edited[0].numel())
    return 1 - edited * torch.log2(share)


def drop_words(words: Tensor, share: float, unknown: int, seed: int, step: int) -> Tensor:
    """Replace a share of the words (B, L) by the unknown word, so that its vector is trained too."""
    if not share:
        return words
    hit = torch.rand(words.shape, generator=generator(seed, step, 2)) < share
    return torch.where(hit & (words > unknown), unknown, words)


def rate_factor(step: int, steps: int, warmup: int, decay_from: float) -> float:
    """The learning rate's factor: linear warm-up, constant, then linear to zero at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    start = decay_from * steps
    return 1.0 if step < start else (steps - step) / (steps - start)
