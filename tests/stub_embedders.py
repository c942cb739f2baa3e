"""A stand-in for `edittools.models.embedders`, imported by the servers of tests that need no weights.

Its models are small fixed functions of the pixels: `stub` of 8×8 colours, `other` of a coarse histogram and layout.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import EditError


class StubEmbedder:
    def __init__(self, name: str, side: int) -> None:
        self.name, self.side, self.revision = name, side, f"{name}-1"
        self.dim = side * side * 3

    def images(self, pictures: list[np.ndarray]) -> np.ndarray:
        assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)
        return np.stack([self._one(picture) for picture in pictures])

    def texts(self, texts: list[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                vectors[row, ord(letter) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _one(self, picture: np.ndarray) -> np.ndarray:
        small = Image.fromarray(picture).resize((self.side, self.side), Image.Resampling.BOX)
        vector = np.asarray(small, np.float32).ravel() - 127.5
        return vector / max(float(np.linalg.norm(vector)), 1e-6)


def load_embedder(name: str, *, device: str = "cpu", dtype: str = "float32", revision: str | None = None) -> Any:
    sides = {"stub": 8, "other": 6}
    name = name.rsplit("/", 1)[-1]
    if name not in sides:
        raise EditError(f"{name}: no such model here", hint="stub or other")
    return StubEmbedder(name, sides[name])


try:
    import edittools.models.embedders as package
except ImportError:
    package = types.ModuleType("edittools.models.embedders")
    sys.modules["edittools.models.embedders"] = package
package.load_embedder = load_embedder  # type: ignore[attr-defined]
