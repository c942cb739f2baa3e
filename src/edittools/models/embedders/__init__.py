"""Embedders: pictures, and with some models texts, to unit vectors. `load_embedder` picks the backend.

A backend is one file of this folder. It declares `MODEL_TYPES`, the `model_type`s of config.json that it can load,
and `load(folder, name, device, dtype, **options)`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edittools.errors import EditError, UsageError
from edittools.models.weights import find_weights, read_config

if TYPE_CHECKING:
    from torch import Tensor

    from edittools.models.vision import Picture

# Where the models are published that are on no hub: their file is converted once (edittools.models.convert).
RELEASES = {
    "sscd_disc_mixup": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchvision.pt",
    "sscd_disc_advanced": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_advanced.torchvision.pt",
    "sscd_disc_blur": "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_blur.torchvision.pt",
    "isc_ft_v107": "https://github.com/lyakaap/ISC21-Descriptor-Track-1st/releases/download/v1.0.1/isc_ft_v107.pth.tar",
}


class Embedder(Protocol):
    """A loaded embedding model. A vector is a function of its picture, up to rounding: not of the batch."""

    name: str
    dim: int

    @property
    def revision(self) -> str:
        """Stands for the content of its configuration and weights: part of a stage's settings."""
        ...

    def images(self, pictures: list[Picture]) -> np.ndarray:
        """Pictures (uint8 HxWx3, or PIL) as float32 (n, dim), L2-normalised."""
        ...

    def prepare(self, picture: Picture) -> Tensor:
        """The preprocessing of one picture alone, to be done in threads ..."""
        ...

    def infer(self, prepared: list[Tensor]) -> np.ndarray:
        """... and the rest, for one batch of them: `images(p)` is `infer` of every `prepare`."""
        ...


class TextEmbedder(Embedder, Protocol):
    """An embedder with texts in the same space."""

    def texts(self, texts: list[str]) -> np.ndarray:
        """Texts as float32 (n, dim), L2-normalised; cut at the model's longest."""
        ...


def load_embedder(
    name_or_folder: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    **options: Any,
) -> Any:
    """Load an Embedder (one with `texts` where the model has them).

    name_or_folder  a folder, a name below EDITTOOLS_WEIGHTS, or OWNER/NAME on the hub
    dtype           "float32", "bfloat16" or "float16", of the network; the vectors are float32
    revision        of a model on the hub: a branch, tag or commit
    options         the backend's own, such as sscd's `square`

    Raises EditError that says what to fetch and where to put it, and UsageError for options that the backend has not.
    """
    folder = find_weights(name_or_folder, revision=revision, release=RELEASES.get(name_or_folder))
    kind = read_config(folder).get("model_type")
    backend = _backends().get(str(kind))
    if backend is None:
        raise EditError(f"{name_or_folder}: no embedder for a model of type `{kind}`", hint=", ".join(_backends()))
    for option in options.keys() - inspect.signature(backend.load).parameters.keys():
        raise UsageError(f"--{option}: {name_or_folder}, a model of type `{kind}`, has no such option")
    return backend.load(folder, Path(name_or_folder).name, device, dtype, **options)


@functools.cache
def _backends() -> dict[str, Any]:
    """The module for every model type."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        backend = importlib.import_module(f"{__name__}.{module.name}")
        found.update({kind: backend for kind in getattr(backend, "MODEL_TYPES", ())})
    return found


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float32; a row of zeros stays."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)
