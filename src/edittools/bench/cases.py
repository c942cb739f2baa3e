"""The cases a report shows: which ones, and what it needs of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class CaseRow:
    """One held-out row with its images: uint8 RGB, (height, width, 3), not necessarily of one size."""

    id: str
    task: str
    kind: str
    instruction: dict[str, str]  # language ("en", "zh") -> text
    source: np.ndarray
    result: np.ndarray
    truth: np.ndarray
    scores: dict[str, Any]  # as judges.judge_result returns them

    @property
    def gain(self) -> float:
        """dB by which the result is nearer to the truth than the source is."""
        return self.scores["psnr"] - self.scores["copy_psnr"]


def pick_cases(scores: Iterable[tuple[str, str, float]], worst: int = 4, best: int = 4, per_kind: int = 1) -> list[str]:
    """Ids of the rows worth looking at, worst gain first, each once.

    `scores` yields (id, kind, gain). Picked are the `worst` and the `best` rows of all, and the `per_kind`
    worst and best of each kind. Needs no pixels, so a caller decodes only what is shown. Equal gains are
    ordered by id, so the choice does not depend on the order of the rows.
    """
    ranked = sorted((gain, id, kind) for id, kind, gain in scores)
    kinds = defaultdict(list)
    for row in ranked:
        kinds[row[2]].append(row)
    chosen = {*_ends(ranked, worst, best)}
    for rows in kinds.values():
        chosen.update(_ends(rows, per_kind, per_kind))
    return [id for _, id, _ in sorted(chosen)]


def _ends(rows: list[tuple[float, str, str]], first: int, last: int) -> list[tuple[float, str, str]]:
    return rows[:first] + rows[max(0, len(rows) - last) :]
