"""Rows of a data set at random, for a page: what figures do not show."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError
from edittools.seeded import digest
from edittools.stream import codec
from edittools.stream.fetch import Fetcher, kept_reference
from edittools.stream.row_images import column_references, list_slots
from edittools.stream.rows import column_values

_TEXTS = ("instruction", "caption")
_RASTER = codec.Raster(short_side=320)


@dataclass(frozen=True)
class SampledRow:
    """A row with its images: what each is called, uint8 HxWx3, or why it cannot be shown."""

    id: str
    task: str
    texts: dict[str, str]  # by language
    scores: dict[str, float]
    images: list[tuple[str, np.ndarray | str]] = field(default_factory=list)
    replies: list[tuple[str, str]] = field(default_factory=list)  # who judged, by which rubric, and what was said


class RandomRows:
    """So many rows at random, each as likely as any other. Which they are depends on their ids and the seed, and not
    on the order of the rows; only the references to their images are kept."""

    def __init__(self, most: int, seed: int = 0) -> None:
        self.most, self.seed = most, seed
        self._held: list[tuple[int, int, dict[str, Any]]] = []  # a heap, the largest hash first
        self._seen = 0
        self.fetcher = Fetcher()

    def add(self, rows: pa.RecordBatch) -> None:
        hashes = [-digest(self.seed, "sample", name) for name in column_values(rows, "id")]
        for k, known in enumerate(hashes):
            self._seen += 1
            if len(self._held) < self.most:
                heapq.heappush(self._held, (known, self._seen, _row(rows.slice(k, 1))))
            elif self._held and known > self._held[0][0]:
                heapq.heapreplace(self._held, (known, self._seen, _row(rows.slice(k, 1))))

    def rows(self) -> list[SampledRow]:
        """The rows in the order in which they came, their images decoded."""
        return [self._shown(row) for _, _, row in sorted(self._held, key=lambda held: held[1])]

    def _shown(self, row: dict[str, Any]) -> SampledRow:
        said = next((row[name] for name in _TEXTS if row[name]), None) or {}
        texts = {"en": said} if isinstance(said, str) else {k: v for k, v in said.items() if isinstance(v, str) and v}
        scores = {k: float(v) for k, v in (row["scores"] or {}).items() if isinstance(v, (int, float))}
        images = [(name, self._decoded(reference)) for name, reference in row["images"] if reference is not None]
        replies = _replies(row["judgements"] or [])
        return SampledRow(str(row["id"]), row["task"] or "unknown", texts, scores, images, replies)

    def _decoded(self, reference: dict[str, Any]) -> np.ndarray | str:
        try:
            return codec.decode(self.fetcher.get(reference), _RASTER)
        except RowError as error:
            return error.reason


def _replies(judgements: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What judges wrote, once where several scores were read from it."""
    said = {
        (one["reply"], " ".join(filter(None, (one.get("judge") or one.get("model"), one.get("rubric")))))
        for one in judgements
        if isinstance(one, dict) and one.get("reply")
    }
    return sorted((who, reply) for reply, who in said)


def _row(row: pa.RecordBatch) -> dict[str, Any]:
    """One row's values, and references to its images."""
    sources = list_slots(row, "source")[0]
    images = [("source" if k == 0 else f"source {k + 1}", reference) for k, reference in enumerate(sources)]
    images += [
        (name, column_references(row, name)[0])
        for name in ("target", "rejected", "result", "mask")
        if name in row.schema.names
    ]
    known = {name: column_values(row, name)[0] for name in ("id", "task", "scores", "judgements", *_TEXTS)}
    return known | {"images": [(name, kept_reference(reference)) for name, reference in images]}
