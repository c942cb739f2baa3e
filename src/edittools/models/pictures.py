"""Pictures as a network takes them: covered, cropped, in [-1, 1]."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Decoded pictures and mapped files are only read. For good, not around each call: that is not safe in threads.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (h, w, 3) -> (height, width, 3): its middle cut to whole pixels, then scaled, antialiased and bicubic.

    By torch, whose results are Pillow's but for rounding (at hard edges a few of 255), in a sixth of its time. A
    picture of that shape is left alone.
    """
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    left, top, right, bottom = (round(side) for side in fit_box(h, w, height, width))
    kept = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
    return _scale(kept, height, width)


def _scale(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    # the pixels stay where they are, channels last, which is the fast layout
    pixels = _view(picture).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def _view(picture: np.ndarray) -> Tensor:
    """A picture as a tensor, not copied where that can be: do not write to it."""
    if min(picture.strides) < 0:
        picture = picture.copy()
    return torch.from_numpy(picture)


def fit_box(h: int, w: int, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an (h, w) picture that fit() keeps: left, top, right, bottom in its pixels."""
    scale = max(height / h, width / w)
    kept_h, kept_w = min(height / scale, h), min(width / scale, w)
    return (w - kept_w) / 2, (h - kept_h) / 2, (w + kept_w) / 2, (h + kept_h) / 2


def cropped_share(h: int, w: int, height: int, width: int) -> float:
    """The share of an (h, w) picture that fit() cuts away."""
    left, top, right, bottom = fit_box(h, w, height, width)
    return 1 - (right - left) * (bottom - top) / (h * w)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's antialiased resize, the aspect ratio given up; equal shapes are left alone."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> float32 (3, h, w) in [-1, 1]."""
    pixels = _view(picture).permute(2, 0, 1)
    return pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_picture(x: Tensor) -> np.ndarray:
    """float (3, H, W) in [-1, 1] -> uint8 (H, W, 3); values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
