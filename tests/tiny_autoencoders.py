"""Tiny autoencoders that have learnt a handful of pictures: a random one would decode everything to nearly the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def teach(vae: Any, pictures: Tensor, steps: int = 400, seed: int = 0) -> Any:
    """Train encoder and decoder on pictures (N, 3, H, W) in [-1, 1]; latents get mean 0 and deviation 1."""
    torch.manual_seed(seed)
    video = hasattr(vae.config, "z_dim")
    optimizer = torch.optim.Adam(vae.parameters(), lr=4e-3)
    vae.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, 2 * (1 - step / steps))
        x = pictures.unsqueeze(2) if video else pictures
        loss = F.mse_loss(vae.decode(vae.encode(x).latent_dist.mode(), return_dict=False)[0], x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vae.eval()
    with torch.no_grad():
        z = vae.encode(pictures.unsqueeze(2) if video else pictures).latent_dist.mode()
    if video:
        vae.register_to_config(
            latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist()
        )
    else:
        vae.register_to_config(shift_factor=z.mean().item(), scaling_factor=1 / z.std().item())
    return vae
