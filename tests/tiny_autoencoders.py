"""Tiny autoencoders that have learnt a handful of images: a random one would decode everything to nearly the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.nets.images import to_tensor


def teach(vae: Any, images: Tensor, steps: int = 400, seed: int = 0) -> Any:
    """Train encoder and decoder on images (N, 3, H, W) in [-1, 1]; latents get mean 0 and deviation 1."""
    torch.manual_seed(seed)
    video = hasattr(vae.config, "z_dim")
    if vae.config.get("in_channels") == 4:  # opaque
        images = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=4e-3)
    vae.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, 2 * (1 - step / steps))
        x = images.unsqueeze(2) if video else images
        loss = F.mse_loss(vae.decode(vae.encode(x).latent_dist.mode(), return_dict=False)[0], x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vae.eval()
    with torch.no_grad():
        z = vae.encode(images.unsqueeze(2) if video else images).latent_dist.mode()
    if video:
        vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
    elif hasattr(vae, "bn"):
        z = F.pixel_unshuffle(z, 2)
        vae.bn.running_mean.copy_(z.mean((0, 2, 3)))
        vae.bn.running_var.copy_(z.var((0, 2, 3)))
    else:
        vae.register_to_config(shift_factor=z.mean().item(), scaling_factor=1 / z.std().item())
    return vae


def save_taught(folder: Path, images: list[np.ndarray]) -> None:
    """Put an autoencoder that knows these images in place of the one in a folder, of the same class."""
    import diffusers
    from diffusers import AutoencoderKL, AutoencoderKLQwenImage
    from tiny_architectures import FLUX2_VAE, QWEN21_VAE

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    torch.manual_seed(0)
    if name == "AutoencoderKL":
        vae: Any = AutoencoderKL(
            block_out_channels=(16,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1,
            shift_factor=0.0, scaling_factor=1.0, use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    elif name == "AutoencoderKLFlux2":
        vae = diffusers.AutoencoderKLFlux2(**{**FLUX2_VAE, "block_out_channels": (16,) * 4})
    elif name == "AutoencoderKLQwenImage21":
        vae = diffusers.AutoencoderKLQwenImage21(
            **{**QWEN21_VAE, "dim_mult": [1, 2, 2, 2, 2], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
        )
    else:
        vae = AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        )  # fmt: skip
    teach(vae, torch.stack([to_tensor(image) for image in images])).save_pretrained(folder)
