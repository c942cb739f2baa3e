"""Reference metrics between two images, from pixels alone, and where an edit happened.

Images are uint8 arrays of shape (height, width, 3), sRGB, compared as stored: no linearisation and no
conversion to luma. Functions that take `where` (bool, height x width) look at those pixels only and return
None if there are none.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

PSNR_LIMIT = 100.0
"""dB reported for identical images, and the most any pair gets. The true value is infinite, which JSON cannot
hold and which would swallow a mean. Nothing visible is lost: above about 50 dB images look alike."""

CHANGE_THRESHOLD = 8
"""A pixel counts as changed if a channel moves by more than this many of 255 levels. JPEG at quality 90 and a
resize there and back mostly stay below it; any edit meant to be seen exceeds it."""

SSIM_WINDOW = 7
SSIM_STRIP = 1 << 14  # pixels worked on at a time
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), at most PSNR_LIMIT.

    Raises ValueError if the images are not both uint8 RGB of one size.
    """
    difference = _difference(a, b, where)
    if difference.size == 0:
        return None
    # 255^2 fits int32; the sum of squares of a large image needs int64. Both are exact.
    mean_square = np.sum(difference * difference, dtype=np.int64) / difference.size
    return PSNR_LIMIT if mean_square == 0 else min(PSNR_LIMIT, float(10 * np.log10(255.0**2 / mean_square)))


def l1(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float | None:
    """Mean absolute difference, 0 (identical) to 1 (black against white)."""
    difference = _difference(a, b, where)
    if difference.size == 0:
        return None
    return float(np.sum(np.abs(difference), dtype=np.int64) / difference.size / 255)


def ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean structural similarity, at most 1; None if a side is shorter than the 7-pixel window.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), equation
    13, in the form scikit-image made common: uniform 7x7 windows, unbiased variances, windows that leave the
    image are not counted, mean over pixels and channels.
    """
    _check(a, b)
    if min(a.shape[:2]) < SSIM_WINDOW:
        return None
    windows = a.shape[0] - SSIM_WINDOW + 1, a.shape[1] - SSIM_WINDOW + 1, 3
    # In strips that stay in the processor's cache: about twice as fast as whole images, and a fixed memory.
    strip = max(1, SSIM_STRIP // a.shape[1])
    total = 0.0
    for top in range(0, windows[0], strip):
        rows = slice(top, top + strip + SSIM_WINDOW - 1)
        total += float(_similarities(a[rows].astype(np.int32), b[rows].astype(np.int32)).sum())
    return total / math.prod(windows)


def compare_many(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PSNR and SSIM of a[k] and b[k], for stacks of small images of one size: uint8, (count, height, width, 3)."""
    x, y = a.astype(np.int32), b.astype(np.int32)
    mean_square = ((x - y) ** 2).mean(axis=(1, 2, 3))
    psnrs = np.minimum(PSNR_LIMIT, 10 * np.log10(255.0**2 / np.maximum(mean_square, 1e-9)))
    # Channels do not touch each other, so that all images are the channels of one.
    height, width = a.shape[1:3]
    side_by_side = [stack.transpose(1, 2, 0, 3).reshape(height, width, -1) for stack in (x, y)]
    ssims = _similarities(*side_by_side).mean(axis=(0, 1)).reshape(-1, 3).mean(axis=1)
    return psnrs, ssims


def changed(a: np.ndarray, b: np.ndarray, threshold: int = CHANGE_THRESHOLD) -> np.ndarray:
    """Mask (height, width) of the pixels that differ by more than `threshold` levels in some channel."""
    largest: np.ndarray = np.abs(_difference(a, b)).max(axis=-1)
    return largest > threshold


def bounding_box(pixels: np.ndarray) -> list[float] | None:
    """[x0, y0, x1, y1] around the true pixels, as shares of width and height, ends exclusive; None if none.

    Every true pixel counts, so one stray pixel widens the box; `changed` has the threshold that prevents it.
    """
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    if columns.size == 0:
        return None
    height, width = pixels.shape
    return [
        float(columns[0] / width), float(rows[0] / height),
        float((columns[-1] + 1) / width), float((rows[-1] + 1) / height),
    ]  # fmt: skip


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image at another size (Lanczos, antialiased)."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def as_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask as bool at the given size. Masks are bool, or uint8 in which 128 and above is inside."""
    if mask.ndim != 2:
        raise ValueError(f"a mask has shape (height, width), not {mask.shape}")
    inside = mask if mask.dtype == bool else mask >= 128
    if inside.shape == (height, width):
        return inside
    return np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.NEAREST))


def _difference(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    _check(a, b)
    if where is not None:
        if where.shape != a.shape[:2]:
            raise ValueError(f"a mask of {where.shape} does not fit an image of {a.shape[:2]}")
        a, b = a[where], b[where]
    return a.astype(np.int32) - b.astype(np.int32)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 of shape (height, width, 3), got {image.dtype} {image.shape}")
    if a.shape != b.shape:
        raise ValueError(f"images differ in size: {a.shape[:2]} and {b.shape[:2]}")


def _similarities(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of every 7x7 window and channel of two int32 images."""
    count = SSIM_WINDOW**2
    # The sums are exact integers (at most 2 * 49 * 255^2), so no precision is lost in the differences below.
    mean_x, mean_y = _window_sums(x) / count, _window_sums(y) / count
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    unbiased = count / (count - 1)
    covariance = unbiased * (_window_sums(x * y) / count - product)
    variances = unbiased * (_window_sums(x * x + y * y) / count - squares)  # var x + var y
    luminance = (2 * product + SSIM_C1) / (squares + SSIM_C1)
    return luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Sums over every 7x7 window inside the image. As 7 = 4 + 2 + 1, four additions per axis do, not six."""
    for axis in (0, 1):
        rolled = np.moveaxis(values, axis, 0)
        pairs = rolled[:-1] + rolled[1:]
        fours = pairs[:-2] + pairs[2:]
        sevens = fours[:-3] + pairs[4:-1] + rolled[6:]
        values = np.moveaxis(sevens, 0, axis)
    return values
