"""How much of the image differs visibly; ImgEdit calls less than a hundredth tiny (C.3)."""

from __future__ import annotations

from collections.abc import Sequence

from edittools.metrics.pixels import changed
from edittools.synth.checking import Painted

HELP = "share of the pixels that visibly differ (ImgEdit C.3: below 0.01 is tiny)"
LEAST = 0.01


def load(told: str = "", device: str = "cpu", dtype: str = "float32") -> EditRatio:
    return EditRatio()


class EditRatio:
    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        return [float(changed(one.source, one.target).mean()) for one in edits]
