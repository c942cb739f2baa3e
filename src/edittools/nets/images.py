"""Images as a network takes them: covered, cropped, in [-1, 1]."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Decoded images and mapped files are only read. For good, not around each call: that is not safe in threads.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")


Box = tuple[float, float, float, float]
"""A part of an image: left, top, right, bottom as shares of its width and height."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def fit(
    image: np.ndarray, height: int, width: int, box: Box | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """uint8 (h, w, 3) -> (height, width, 3): a box of it scaled, antialiased and bicubic.

    box    what is kept; None is crop_box(), the middle that has the shape's ratio. To the fraction of a pixel
    size   of the image before it was decoded at a half, a quarter or an eighth; None if it was not

    By torch, whose results are Pillow's but for rounding (at hard edges a few of 255), in a sixth of its time; by
    Pillow where the box ends within a pixel. An image of that shape is left alone.
    """
    h, w = size or image.shape[:2]
    left, top, right, bottom = crop_box(h, w, height, width) if box is None else box
    down, across = _parts(image.shape[:2], (h, w))
    ends = left * w / across, top * h / down, right * w / across, bottom * h / down
    whole = [round(end) for end in ends]
    if max(abs(end - near) for end, near in zip(ends, whole)) > 1e-6:
        # sizes that were rounded up would else be stretched, images of other sizes be cut beside one another
        limits = image.shape[1::-1] * 2
        kept = tuple(min(max(end, 0.0), float(limit)) for end, limit in zip(ends, limits))
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=kept))
    cut = image[whole[1] : whole[3], whole[0] : whole[2]]
    return cut if cut.shape[:2] == (height, width) else _scale(cut, height, width)


def _parts(decoded: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """How many pixels of an image's own size one of the decoded image stands for, down and across."""
    for part in (1, 2, 4, 8):  # libjpeg's scales, which round the size up
        if decoded == (-(-size[0] // part), -(-size[1] // part)):
            return part, part
    return size[0] / decoded[0], size[1] / decoded[1]


def _scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # the pixels stay where they are, channels last, which is the fast layout
    pixels = _view(image).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def _view(image: np.ndarray) -> Tensor:
    """An image as a tensor, not copied where that can be: do not write to it."""
    if min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(image)


def crop_box(h: int, w: int, height: int, width: int) -> Box:
    """The middle of an (h, w) image that a shape keeps, whole pixels, as shares."""
    left, top, right, bottom = (round(side) for side in fit_box(h, w, height, width))
    return left / w, top / h, max(right, left + 1) / w, max(bottom, top + 1) / h


def fit_box(h: int, w: int, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an (h, w) image that has a shape's ratio, in its middle: left, top, right, bottom in pixels."""
    scale = max(height / h, width / w)
    kept_h, kept_w = min(height / scale, h), min(width / scale, w)
    return (w - kept_w) / 2, (h - kept_h) / 2, (w + kept_w) / 2, (h + kept_h) / 2


def cropped_share(h: int, w: int, height: int, width: int) -> float:
    """The share of an (h, w) image that fit() cuts away."""
    left, top, right, bottom = fit_box(h, w, height, width)
    return 1 - (right - left) * (bottom - top) / (h * w)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's antialiased resize, the aspect ratio given up; equal shapes are left alone."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> float32 (3, h, w) in [-1, 1]."""
    pixels = _view(image).permute(2, 0, 1)
    return pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_image(x: Tensor) -> np.ndarray:
    """float (3, H, W) in [-1, 1] -> uint8 (H, W, 3); values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
