"""What a model of images and texts says of the painted place: nearer to what was asked for, farther from what was
there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edittools.errors import UsageError
from edittools.synth.checking import Painted

HELP = "by how much the place's cosine to what is new rises, and to what is gone falls (CLIP; clip=WEIGHTS)"
WEIGHTS = "openai/clip-vit-large-patch14"
LEAST = 0.0


def load(told: str, device: str = "cpu", dtype: str = "float32") -> ClipCheck:
    from edittools.encoders.embedders import load_embedder

    model = load_embedder(told, device=device, dtype=dtype)
    if not hasattr(model, "texts"):
        raise UsageError(f"--check clip={told}: this model takes no texts")
    return ClipCheck(model)


class ClipCheck:
    def __init__(self, model: Any) -> None:
        self.model = model

    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        asked = [(one.plan.look or one.plan.there, one.plan.gone) for one in edits]
        told = [k for k, words in enumerate(asked) if any(words)]
        if not told:
            return [None] * len(edits)
        crops = [_crop(edits[k], pixels) for k in told for pixels in (edits[k].source, edits[k].target)]
        seen = self.model.images(crops)
        words = self.model.texts([f"a photo of {text}" for k in told for text in asked[k]])
        made: list[float | None] = [None] * len(edits)
        for place, k in enumerate(told):
            moved = (seen[2 * place + 1] - seen[2 * place]) @ words[2 * place : 2 * place + 2].T
            new, old = asked[k]
            made[k] = (float(moved[0]) if new else 0.0) - (float(moved[1]) if old else 0.0)
        return made


def _crop(edit: Painted, pixels: Any) -> Any:
    left, top, right, bottom = edit.box
    return pixels[top:bottom, left:right]
