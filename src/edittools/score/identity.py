"""Is a person still the same? What a face-recognition network says of a result's faces beside the target's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edittools.metrics import pixels
from edittools.rounding import rounded

IDENTITY = ("identity", "copy_identity")


def identity_scores(
    embedder: Any,
    result: np.ndarray | None,
    truth: np.ndarray,
    source: np.ndarray,
    faces: Sequence[Sequence[Sequence[float]]],
) -> dict[str, float | None]:
    """`identity`: the mean over the target's faces of the cosine of result and target, each aligned by the target's
    five points; `copy_identity` the same for the source, which is all there is to say of a pair without a result.
    -1 to 1; None without a face.

    faces   each five points, x and y as shares of the target's width and height
    """
    import torch

    from edittools.encoders.embedders.arcface import align

    names = IDENTITY if result is not None else IDENTITY[1:]
    if not faces:
        return dict.fromkeys(names)
    height, width = truth.shape[:2]
    asked = [source] if result is None else [result, source]
    shown = [image if image.shape == truth.shape else pixels.resize(image, height, width) for image in asked]
    stacked = torch.from_numpy(np.stack([truth, *shown])).permute(0, 3, 1, 2).float() / 127.5 - 1
    cosines = []
    for face in faces:
        aligned = align(stacked, np.asarray(face, float) * [width, height])
        vectors = embedder.infer([*aligned])
        cosines.append(vectors[1:] @ vectors[0])
    return rounded(dict(zip(names, np.mean(cosines, axis=0).astype(float).tolist())))
