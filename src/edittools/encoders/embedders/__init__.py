"""Embedders: images, and with some models texts, to unit vectors. `load_embedder` picks the backend.

A backend is one file of this folder. It declares `load(folder, name, device, dtype, **options)` and, as literals, since
these are read without importing it:

    MODEL_TYPES  the `model_type`s of config.json that it can load
    COPIES       short names, each with the weights it stands for and the cosine from which two images count as copies
    RELEASES     where weights are published that are on no hub, by their names

Such a release becomes safetensors by its `recognises(released)` and `save_released(released, folder, name)`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edittools.errors import EditError, UsageError
from edittools.registry import Registry
from edittools.weights.lookup import find_weights, read_config

if TYPE_CHECKING:
    from torch import Tensor

    from edittools.encoders.vision import ImageLike

EMBEDDERS = Registry("edittools.encoders.embedders", "edittools.embedders")


class Embedder(Protocol):
    """A loaded embedding model. A vector is a function of its image, up to rounding: not of the batch."""

    name: str
    dim: int

    @property
    def revision(self) -> str:
        """Hash of the configuration and weights; part of a stage's settings."""
        ...

    def images(self, images: list[ImageLike]) -> np.ndarray:
        """Images (uint8 HxWx3, or PIL) as float32 (n, dim), L2-normalised."""
        ...

    def prepare(self, image: ImageLike) -> Tensor:
        """The preprocessing of one image alone, to be done in threads ..."""
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
    folder = find_weights(name_or_folder, revision=revision, release=releases().get(name_or_folder))
    kind = read_config(folder).get("model_type")
    known = {one: name for name, types in EMBEDDERS.declared("MODEL_TYPES", ()).items() for one in types}
    if kind not in known:
        raise EditError(f"{name_or_folder}: no embedder for a model of type `{kind}`", hint=", ".join(known))
    backend = EMBEDDERS.load(known[str(kind)])
    for option in options.keys() - inspect.signature(backend.load).parameters.keys():
        raise UsageError(f"--{option}: {name_or_folder}, a model of type `{kind}`, has no such option")
    return backend.load(folder, Path(name_or_folder).name, device, dtype, **options)


def releases() -> dict[str, str]:
    """Where weights are published that are on no hub: their file is converted once (edittools.convert)."""
    return {name: url for declared in EMBEDDERS.declared("RELEASES", {}).values() for name, url in declared.items()}


def copy_detectors() -> dict[str, tuple[str, float]]:
    """Short names of models: their weights, and the cosine from which two images count as copies."""
    return {name: pair for declared in EMBEDDERS.declared("COPIES", {}).values() for name, pair in declared.items()}


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float32; a row of zeros stays."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)
