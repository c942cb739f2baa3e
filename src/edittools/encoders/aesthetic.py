"""LAION's improved aesthetic predictor: a score of about 1 to 10 from a CLIP ViT-L/14 vector of unit length.

Five linear layers, 768-1024-128-64-16-1, with no activation between them (the dropout of training is gone); the
released file is `sac+logos+ava1-l14-linearMSE.pth`. https://github.com/christophschuhmann/improved-aesthetic-predictor

Other heads on a CLIP vector load too, if they are one linear layer or layers of these names: LAION's first predictors
(`sa_0_4_vit_l_14_linear.pth`, with its CLIP as --clip) are one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edittools.errors import EditError
from edittools.weights.lookup import find_weights, read_config, read_released, read_tensors, save_converted

NAME = "sac+logos+ava1-l14-linearMSE"
RELEASE = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth"
)
LAYERS = tuple(f"layers.{k}." for k in (0, 2, 4, 6, 7))  # the numbers between are the release's dropout


class AestheticHead:
    """Unit vectors (n, dim) -> scores (n,), in float64: the layers are small, and every machine gets the same."""

    def __init__(self, tensors: dict[str, Any], name: str) -> None:
        self.name = name
        names = ("",) if "weight" in tensors else LAYERS
        self.layers = [tuple(tensors[name + part].double().numpy() for part in ("weight", "bias")) for name in names]
        self.dim = self.layers[0][0].shape[1]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        if vectors.shape[1] != self.dim:
            raise EditError(
                f"the aesthetic predictor {self.name} takes CLIP vectors of {self.dim} numbers, not {vectors.shape[1]}",
                hint="its --clip is openai/clip-vit-large-patch14",
            )
        values = vectors.astype(np.float64)
        for weight, bias in self.layers:
            values = values @ weight.T + bias
        return values[:, 0]


def load_aesthetic(spec: str = NAME) -> AestheticHead:
    """The predictor of a folder, or of a name below EDITTOOLS_WEIGHTS. Raises EditError."""
    folder = find_weights(spec, release=RELEASE)
    tensors = read_tensors(folder)
    if read_config(folder).get("model_type") != "aesthetic" or not recognises(tensors):
        raise EditError(f"{folder}: not an aesthetic predictor")
    return AestheticHead(tensors, Path(spec).name)


# ---------------------------------------------------------------- conversion


def recognises(released: dict[str, Any]) -> bool:
    """Is this the state dict of such a head?"""
    if released.keys() == {"weight", "bias"}:
        return len(released["weight"]) == 1
    return released.keys() == {name + part for name in LAYERS for part in ("weight", "bias")}


def convert(path: str | Path, folder: str | Path) -> None:
    """The released `.pth` as a folder that `load_aesthetic` reads. Raises EditError."""
    save_released(read_released(path), folder, str(path))


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    if not recognises(released):
        raise EditError(f"{name}: not the aesthetic predictor's weights")
    save_converted(folder, released, {"model_type": "aesthetic"})
