"""What lies beyond the paint is the source's."""

from __future__ import annotations

from collections.abc import Sequence

from edittools.synth.checking import Painted

HELP = "share of the pixels beyond the mask that differ from the source's in any way"
MOST = 0.0


def load(told: str = "", device: str = "cpu", dtype: str = "float32") -> Outside:
    return Outside()


class Outside:
    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        return [
            float(((one.source != one.target).any(axis=2) & ~one.paint).mean()) if not one.paint.all() else 0.0
            for one in edits
        ]
