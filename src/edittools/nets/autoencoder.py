"""The autoencoders of latent diffusion as one pair of functions: images to normalised latents and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Autoencoder:
    """A diffusers `AutoencoderKL` (FLUX's) or `AutoencoderKLQwenImage`, frozen.

    Latents (B, C, H/8, W/8) are normalised as the transformers were trained on them: FLUX (z - shift) · scale,
    Qwen-Image (z - mean) / std per channel. They are the mode of the encoder's distribution, so that an image has
    one latent and a cache of latents is exact.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae.requires_grad_(False).eval()
        config = vae.config
        self.is_video = "latents_mean" in config and config.latents_mean is not None  # Qwen-Image's takes frames
        if self.is_video:
            self.channels = config.z_dim
            self.factor = 2 ** len(config.temperal_downsample)
            self.mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
            self.std = torch.tensor(config.latents_std).view(1, -1, 1, 1)
        else:
            self.channels = config.latent_channels
            self.factor = 2 ** (len(config.block_out_channels) - 1)
            self.mean = torch.tensor(config.shift_factor or 0.0).view(1, 1, 1, 1)
            self.std = torch.tensor(1 / config.scaling_factor).view(1, 1, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/factor, W/factor) float32."""
        images = images.to(self.vae.device, self.vae.dtype)
        with torch.no_grad():
            z = self.vae.encode(images.unsqueeze(2) if self.is_video else images).latent_dist.mode().float()
        z = z[:, :, 0] if self.is_video else z
        return (z - self.mean.to(z.device)) / self.std.to(z.device)

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> images (B, 3, h·factor, w·factor), about [-1, 1], float32; differentiable."""
        z = latents.to(self.vae.device).float()
        z = (z * self.std.to(z.device) + self.mean.to(z.device)).to(self.vae.dtype)
        images = self.vae.decode(z.unsqueeze(2) if self.is_video else z, return_dict=False)[0]
        return (images[:, :, 0] if self.is_video else images).float()
