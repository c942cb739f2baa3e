"""How far one image lies off another that shows the same: shift, scale and rotation, to a small part of a pixel.

Trained editors move, zoom or turn what they leave unedited by fractions of a pixel up to a few per cent. A similarity
is fitted to all pixels, on a pyramid, by the efficient second-order minimisation of Benhimane and Malis (2004); pixels
that do not fit, as those of an edit, count for little (Tukey's weights). Both images are compared after their local
mean and contrast were divided out, so that a change of tone is no shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edittools.rounding import rounded

NAMES = ("shift", "shift_x", "shift_y", "zoom", "rotation")
_MOST = 4e5  # pixels that are compared: larger images are scaled down to it
_LEAST = 48  # pixels of the pyramid's shortest side
_ROUNDS = 30
_DONE = 0.003  # pixels that a corner moves in a round
_TUKEY = 4.685  # standard deviations, 95% efficient on normal noise
_AGREEMENT = 0.25  # correlation below which two images do not show the same
_WINDOW = 4.0  # pixels: standard deviation of the window of local mean and contrast
_SOFT = 1.2  # pixels: what is finer is blurred first, for interpolation pulls it towards whole pixels
_NOISE = 3.0  # levels of contrast that are as good as none


@dataclass(frozen=True)
class Alignment:
    """Where the places of the first image, about its centre, are in the second: (x, y) times `zoom`, turned by
    `rotation`, moved by the shift."""

    shift_x: float  # pixels of the first image, to the right
    shift_y: float  # down
    zoom: float  # factor
    rotation: float  # degrees, clockwise as it is seen
    agreement: float  # correlation of the two once they are aligned, -1 to 1
    shift: float  # mean length of the motion over the image, in pixels

    def scores(self) -> dict[str, float]:
        return rounded({name: getattr(self, name) for name in NAMES})


def alignment(first: np.ndarray, second: np.ndarray) -> Alignment | None:
    """Of images, uint8 HxW or HxWx3; one of another size is brought to the first's. None where they do not show the
    same, or show nothing that could be compared. Found are rotations to about 5 degrees and zooms to about 5%."""
    height, width = first.shape[:2]
    share = min(1.0, math.sqrt(_MOST / (height * width)))
    size = max(1, round(width * share)), max(1, round(height * share))
    if min(size) < 16:
        return None
    gray = (Image.fromarray(one).convert("L") for one in (first, second))
    images = [np.asarray(one.resize(size, Image.Resampling.LANCZOS), np.float32) for one in gray]
    levels = max(0, int(math.log2(min(size) / _LEAST)))
    motion: np.ndarray | None = None  # zoom cos - 1, zoom sin, x, y
    agreement = 0.0
    for level in range(levels, -1, -1):
        one, other = (_flat(_reduced(image, level)) for image in images)
        if not (one.any() and other.any()):
            return None
        if motion is None:
            motion = np.array([0.0, 0.0, *_phase(one, other)])
        else:
            motion = motion * np.array([1, 1, 2, 2])
        motion, agreement = _fit(one, other, motion)
    assert motion is not None
    if agreement < _AGREEMENT or not np.isfinite(motion).all():
        return None
    a, b, x, y = motion.tolist()
    scale = width / size[0]
    return Alignment(
        x * scale, y * scale, math.hypot(1 + a, b), math.degrees(math.atan2(b, 1 + a)), agreement,
        _mean_motion(a, b, x * scale, y * scale, width, height),
    )  # fmt: skip


def _mean_motion(a: float, b: float, x: float, y: float, width: int, height: int) -> float:
    """Mean length of the motion, on a grid over the image."""
    u, v = np.meshgrid((np.arange(33) / 32 - 0.5) * width, (np.arange(33) / 32 - 0.5) * height)
    return float(np.hypot(a * u - b * v + x, b * u + a * v + y).mean())


def _reduced(image: np.ndarray, level: int) -> np.ndarray:
    """Halved so many times; the area average leaves centres where they are, up to what a last odd row adds."""
    height, width = (side >> level << level for side in image.shape)
    if level == 0:
        return image
    blocks = image[:height, :width].reshape(height >> level, 1 << level, width >> level, 1 << level)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _flat(image: np.ndarray) -> np.ndarray:
    """Less the local mean, over the local contrast: 0 where there is nothing but noise."""
    image = _blurred(image, _SOFT)
    mean = _blurred(image, _WINDOW)
    contrast = np.sqrt(_blurred((image - mean) ** 2, _WINDOW))
    return np.asarray((image - mean) / (contrast + _NOISE), np.float32)


def _blurred(image: np.ndarray, spread: float) -> np.ndarray:
    """Gaussian, by a pass along each axis."""
    radius = math.ceil(3 * spread)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / np.float32(spread)) ** 2)
    weights /= weights.sum()
    for _ in range(2):
        padded = np.pad(image, ((radius, radius), (0, 0)), mode="edge")
        made = np.zeros_like(image)
        for k, weight in enumerate(weights):
            made += weight * padded[k : k + len(image)]
        image = np.ascontiguousarray(made.T)
    return image


def _phase(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Whole pixels that the second lies to the right and down of the first, by phase correlation (Kuglin and Hines
    1975); at most a quarter of the sides."""
    height, width = one.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    spectrum = np.conj(np.fft.rfft2(one * window)) * np.fft.rfft2(other * window)
    surface = np.fft.irfft2(spectrum / (np.abs(spectrum) + 1e-6), one.shape)
    y, x = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in one.shape), indexing="ij")
    surface[(np.abs(y) > height / 4) | (np.abs(x) > width / 4)] = -np.inf
    k = int(surface.argmax())
    return float(x.flat[k]), float(y.flat[k])


def _fit(one: np.ndarray, other: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, float]:
    """The motion that brings the second over the first, from a first guess, and how well they agree then."""
    height, width = one.shape
    x = np.arange(width, dtype=np.float32)[None] + 0.5 - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2
    still_y, still_x = np.gradient(one)
    image = Image.fromarray(other)
    agreement = -1.0
    for _ in range(_ROUNDS):
        a, b, shift_x, shift_y = motion.tolist()
        moved = _warped(image, motion)
        u, v = (1 + a) * x - b * y + shift_x, b * x + (1 + a) * y + shift_y
        seen = (np.abs(u) < width / 2 - 3) & (np.abs(v) < height / 2 - 3)
        if seen.mean() < 0.1:
            return motion, -1.0
        wrong = moved - one
        spread = 1.4826 * float(np.median(np.abs(wrong[seen][::5]))) + 1e-3
        weight = np.maximum(1 - (wrong / (_TUKEY * spread)) ** 2, 0) ** 2 * seen
        agreement = _correlation(moved, one, weight)
        # Half of the two gradients: the step is then right to second order.
        moved_y, moved_x = np.gradient(moved)
        gx, gy = (still_x + moved_x) / 2, (still_y + moved_y) / 2
        steps = np.stack([gx * x + gy * y, gy * x - gx * y, gx, gy]).reshape(4, -1)
        heavy = steps * weight.reshape(-1)
        normal, right = (heavy @ steps.T).astype(np.float64), (heavy @ wrong.reshape(-1)).astype(np.float64)
        try:
            step = -np.linalg.solve(normal, right)
        except np.linalg.LinAlgError:
            return motion, -1.0
        # The step is taken in the first image's coordinates: motion after step.
        turn, place = np.array([[1 + a, -b], [b, 1 + a]]), np.array([step[2], step[3]])
        moved_to = turn @ place + [shift_x, shift_y]
        inner = np.array([[1 + step[0], -step[1]], [step[1], 1 + step[0]]])
        whole = turn @ inner
        motion = np.array([whole[0, 0] - 1, whole[1, 0], *moved_to])
        if abs(step[:2]).max() * max(width, height) / 2 + abs(step[2:]).max() < _DONE:
            break
    return motion, agreement


def _warped(image: Image.Image, motion: np.ndarray) -> np.ndarray:
    """The second image as it is seen through the motion, on the first one's grid."""
    a, b, x, y = motion.tolist()
    width, height = image.size
    half_x, half_y = width / 2, height / 2
    coefficients = (
        1 + a, -b, x + half_x - (1 + a) * half_x + b * half_y,
        b, 1 + a, y + half_y - b * half_x - (1 + a) * half_y,
    )  # fmt: skip
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


def _correlation(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum()) or 1.0
    one, other = one - float((weight * one).sum()) / total, other - float((weight * other).sum()) / total
    size = math.sqrt(float((weight * one**2).sum()) * float((weight * other**2).sum()))
    return float((weight * one * other).sum()) / size if size else 0.0
