"""BRISQUE: how distorted an image looks, without a reference."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np

from edittools.errors import EditError
from edittools.filter import Filter
from edittools.filter.natural import asymmetric, model_file, normalised
from edittools.opencv import opencv
from edittools.stream.codec import Raster

RASTER = Raster(short_side=512, gray=True)


def features(gray: np.ndarray) -> np.ndarray:
    """The 36 features: at two scales, shape and variance, and 4 parameters for each of 4 products of neighbours."""
    cv2 = opencv("--brisque", "iqa")
    y = gray.astype(np.float64) / 255
    found: list[float] = []
    for scale in range(2):
        if scale:
            y = cv2.resize(y, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        n = normalised(y, 1 / 255)
        shape, _, left, right = asymmetric(n)
        found += [shape, (left**2 + right**2) / 2]
        for product in (n[:, :-1] * n[:, 1:], n[:-1] * n[1:], n[:-1, :-1] * n[1:, 1:], n[1:, :-1] * n[:-1, 1:]):
            shape, mean, left, right = asymmetric(product)
            found += [shape, mean, left**2, right**2]
    return np.array(found)


class _Numbers(pickle.Unpickler):
    """Reads lists and dictionaries of numbers; refuses anything that would name a class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file of numbers")


@functools.cache
def _model() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Lowest and highest of each feature, support vectors, their weights, gamma and rho of the LIVE model."""
    with open(model_file("brisque", "models", "normalize.pickle", use="--brisque"), "rb") as file:
        ranges = _Numbers(file).load()
    header, _, body = model_file("brisque", "models", "svm.txt", use="--brisque").read_text("ascii").partition("SV\n")
    settings = dict(line.split(maxsplit=1) for line in header.splitlines() if line.strip())
    if settings.get("svm_type") != "epsilon_svr" or settings.get("kernel_type") != "rbf":
        raise EditError("--brisque: the model of the package `brisque` is not the one that is known here")
    weights, vectors = [], []
    for line in body.splitlines():
        weight, *entries = line.split()
        vector = np.zeros(36)
        for entry in entries:
            place, value = entry.split(":")
            vector[int(place) - 1] = float(value)
        weights.append(float(weight))
        vectors.append(vector)
    low, high = np.array(ranges["min_"], float), np.array(ranges["max_"], float)
    return low, high, np.array(vectors), np.array(weights), float(settings["gamma"]), float(settings["rho"])


def measure(gray: np.ndarray) -> float:
    """BRISQUE with the model trained on LIVE: about 0 (clean) to 100 (distorted); now and then outside.

    Images whose shorter side is under 16 pixels have no statistics to speak of and get 100.
    """
    if min(gray.shape) < 16:
        return 100.0
    low, high, vectors, weights, gamma, rho = _model()
    x = -1 + 2 * (features(gray) - low) / (high - low)
    # Support vector regression with a Gaussian kernel.
    return float(weights @ np.exp(-gamma * ((vectors - x) ** 2).sum(axis=1)) - rho)


FILTER = Filter(
    name="brisque",
    help="BRISQUE at most this, such as 50; blurred, noisy and over-compressed images are high.",
    unit="about 0 to 100",
    cost=73,
    group="Exposure and sharpness",
    source="Mittal 2012; the LIVE model as the package `brisque` ships it",
    bare="max",
    raster=RASTER,
    measure=measure,
)
