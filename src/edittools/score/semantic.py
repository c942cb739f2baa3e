"""What embedding spaces say about a result beside the true target: the whole, the edited region, the rest.

Every function takes an Embedder (see edittools.encoders.embedders): CLIP and DINO are two calls. Images are uint8
(height, width, 3); similarities are cosines, -1 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from edittools.encoders.embedders import Embedder
from edittools.metrics import pixels
from edittools.rounding import rounded

GRAY = np.array([124, 116, 104], np.uint8)  # ImageNet's mean: what the networks see as nothing in particular


def similarity(
    embedder: Embedder, result: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, float | None]:
    """How alike result and truth are: `whole`, and with a mask of the edited region `inside` and `outside` it.

    `inside` compares the mask's bounding box in both, with everything outside the mask painted gray in both;
    `outside` compares the whole images with the region painted gray. Both are None without a mask, or where that
    side is empty. A result of another size is brought to the truth's.
    """
    height, width = truth.shape[:2]
    if result.shape[:2] != (height, width):
        result = pixels.resize(result, height, width)
    shown = {"whole": (result, truth)}
    if mask is not None:
        inside = pixels.as_mask(mask, height, width)
        if inside.any():
            shown["inside"] = (_inside(result, inside), _inside(truth, inside))
        if not inside.all():
            shown["outside"] = (_painted(result, inside), _painted(truth, inside))
    vectors = embedder.images([image for pair in shown.values() for image in pair])
    cosines = (vectors[::2] * vectors[1::2]).sum(axis=1).tolist()
    return {"whole": None, "inside": None, "outside": None} | dict(zip(shown, rounded(cosines)))


def directional(embedder: Embedder, source: np.ndarray, result: np.ndarray, truth: np.ndarray) -> float | None:
    """cos(E(result) - E(source), E(truth) - E(source)): whether the result left the source in the truth's direction.

    None where one of the two did not leave it.
    """
    before, made, meant = embedder.images([source, result, truth])
    return _cosine(made - before, meant - before)


def semantic_scores(
    embedders: dict[str, Embedder],
    result: np.ndarray,
    truth: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """All of it as scores of a row, for embedders by their short name: `clip`, `clip_inside`, `clip_outside`,
    `clip_directional`, and the first three with `copy_` for the source handed back unedited, the score to beat."""
    scores: dict[str, Any] = {}
    for name, embedder in embedders.items():
        for prefix, image in (("", result), ("copy_", source)):
            found = similarity(embedder, image, truth, mask)
            scores |= {prefix + name + ("" if part == "whole" else f"_{part}"): value for part, value in found.items()}
        scores[f"{name}_directional"] = directional(embedder, source, result, truth)
    return scores


def semantic_names(embedders: Iterable[str]) -> list[str]:
    """The scores that `semantic_scores` makes."""
    parts = ("", "_inside", "_outside")
    return [
        name
        for short in embedders
        for name in (
            *(f"{prefix}{short}{part}" for prefix in ("", "copy_") for part in parts),
            f"{short}_directional",
        )
    ]


def _inside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _painted(image[place], ~mask[place])


def _painted(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where[..., None], GRAY, image)


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return None if lengths < 1e-6 else rounded(float(a @ b) / lengths)
