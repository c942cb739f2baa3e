"""Taste: what a linear model of an image's mean colour says of it."""

from typing import Any

import numpy as np

from edittools.filter import Filter, Input, Model
from edittools.weights.lookup import find_weights, read_tensors


class Taste:
    def __init__(self, weight: np.ndarray) -> None:
        self.weight = weight  # (1, 3)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 HxWx3 -> (3,); in threads, one image at a time."""
        return image.reshape(-1, 3).mean(axis=0) / 255

    def infer(self, prepared: list[np.ndarray]) -> np.ndarray:
        """n of them -> (n, 1)."""
        return np.stack(prepared) @ self.weight.T


def load(name: str, config: Any) -> Taste:
    return Taste(read_tensors(find_weights(name, release=RELEASE))["weight"].numpy())


RELEASE = "https://example.org/taste.pth"
MODEL = Model(
    "taste_weights",
    help="The model behind --taste. Default: plain-taste.",
    default="plain-taste",
    load=load,
    release=lambda name: RELEASE,
)
FILTER = Filter(
    name="taste",
    help="What the model of --taste-weights says, at least this.",
    unit="0 to 1",
    source="an example",
    inputs=(Input(MODEL, "image"),),
    score=lambda models, said: said[:, 0],
)
