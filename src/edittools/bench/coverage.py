"""How densely a data set's instructions lie around the requests that it should serve (FireRed-Image-Edit 2.4): counts
within a radius, the nearest ones, and the gaps.

The radius is no constant: it is the cosine that a given share of pairs of wordings of one template reaches, by the
grammar of `edit synth`, whose wordings are paraphrases by construction. Precision and recall are those of radii that
are calibrated on half of the templates, for pairs of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edittools.bench.terminal import ReportListing
from edittools.caption.captions import caption
from edittools.encoders.nearest_rows import NearestRows
from edittools.errors import UsageError
from edittools.rounding import rounded
from edittools.seeded import digest, stream
from edittools.synth.core import Inapplicable, Tools
from edittools.synth.registry import atomic_names, load

RECALL = 0.5
SPLITS = 50  # of the templates into halves: one to calibrate on, one to measure with
_BLOCK = 8192  # rows of the index that are compared at a time
_SIDE, _EDITS, _WORDINGS = 96, 6, 2  # of the calibration: of each template so many edits, in so many wordings


class Texts(Protocol):
    """Makes unit vectors of texts: (n, dim)."""

    def texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Radius:
    """From which cosine on two instructions count as near, and how well that tells the same edit."""

    cosine: float
    recall: float | None = (
        None  # of pairs of one template, among templates it was not calibrated on: the mean of SPLITS
    )
    precision: float | None = None  # the share of such pairs among all pairs that are near, likewise
    recall_range: list[float] | None = None  # 5% and 95% of the splits
    precision_range: list[float] | None = None


class Index:
    """Vectors of instructions, float16, compared exactly."""

    def __init__(self, vectors: Iterable[np.ndarray]) -> None:
        parts = [np.asarray(part, np.float16) for part in vectors]
        self.vectors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float16)

    def look(self, queries: np.ndarray, radius: float, nearest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each query: how many lie within the radius; cosines and rows of the nearest (q, k), nearest first."""
        found = NearestRows(queries, min(nearest, len(self.vectors)), radius)
        for start in range(0, len(self.vectors), _BLOCK):
            found.add(self.vectors[start : start + _BLOCK])
        return found.counts, found.cosines, found.rows


def wordings(language: str, tools: Tools) -> tuple[list[str], np.ndarray]:
    """Instructions of the grammar, and the number of the template of each."""
    texts, templates = [], []
    for number, name in enumerate(atomic_names()):
        for edit in range(_EDITS):
            image = stream("coverage", name, edit).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
            try:
                slots = load(name).slots(image, stream("coverage", "slots", name, edit), tools)
            except Inapplicable:
                continue
            for wording in range(_WORDINGS):
                texts.append(caption(name, slots, f"{edit}-{wording}")["concise"][language])
                templates.append(number)
    return texts, np.array(templates)


def calibrated(model: Texts, language: str, recall: float = RECALL, tools: Tools | None = None) -> Radius:
    """The radius that `recall` of the pairs of wordings of one template reach; and what such a radius does on templates
    that it was not calibrated on, over SPLITS divisions of the templates into halves."""
    texts, templates = wordings(language, tools or Tools())
    vectors = np.asarray(model.texts(texts), np.float32)
    a, b = np.triu_indices(len(vectors), 1)
    cosines, same = (vectors @ vectors.T)[a, b], templates[a] == templates[b]
    recalls, precisions = [], []
    for split in range(SPLITS):
        held_out = np.array([digest("held out", split, number) % 2 == 1 for number in range(templates.max() + 1)])
        held_out = held_out[templates]
        known, unknown = ~(held_out[a] | held_out[b]), held_out[a] & held_out[b]
        near = cosines[unknown] >= np.quantile(cosines[known & same], 1 - recall)
        recalls.append(near[same[unknown]].mean())
        precisions.append(same[unknown][near].mean() if near.any() else 0.0)
    return Radius(
        rounded(float(np.quantile(cosines[same], 1 - recall))),
        rounded(float(np.mean(recalls))),
        rounded(float(np.mean(precisions))),
        [rounded(float(value)) for value in np.quantile(recalls, (0.05, 0.95))],
        [rounded(float(value)) for value in np.quantile(precisions, (0.05, 0.95))],
    )


def coverage(
    model: Texts, texts: Sequence[str], queries: Sequence[str], radius: Radius, *, nearest: int = 3, least: int = 1
) -> dict[str, Any]:
    """{"instructions", "queries", "radius", "gaps", "found": [{"query", "within", "mean", "nearest"}]}.

    The emptiest come first. `mean` is that of the cosines of the nearest ones; a gap is a query with fewer than `least`
    within the radius.
    """
    if not texts:
        raise UsageError("there is no instruction in the input")
    if not queries:
        raise UsageError("--queries: there is none")
    index = Index(model.texts(list(texts[start : start + _BLOCK])) for start in range(0, len(texts), _BLOCK))
    counts, cosines, rows = index.look(model.texts(list(queries)), radius.cosine, nearest)
    found: list[dict[str, Any]] = [
        {
            "query": query,
            "within": int(counts[k]),
            "mean": rounded(float(cosines[k].mean())),
            "nearest": [{"text": texts[row], "cosine": rounded(float(c))} for row, c in zip(rows[k], cosines[k])],
        }
        for k, query in enumerate(queries)
    ]
    found.sort(key=lambda one: (one["within"], one["mean"]))
    return {
        "instructions": len(texts),
        "queries": len(queries),
        "radius": radius.__dict__,
        "least": least,
        "gaps": sum(one["within"] < least for one in found),
        "found": found,
    }


def listings(found: Mapping[str, Any], shown: int = 40) -> list[ReportListing]:
    radius = found["radius"]
    note = f"{found['gaps']:,} of {found['queries']:,} requests have fewer than {found['least']} instructions near them"
    said = f"near: a cosine of at least {radius['cosine']:.3f}"
    if radius["recall"] is not None:
        recall, precision = ("{:.0%} to {:.0%}".format(*radius[f"{name}_range"]) for name in ("recall", "precision"))
        said += (
            f". Of templates that it was not calibrated on, such a radius holds {radius['recall']:.0%} of the pairs of "
            f"wordings of one template ({recall}, by which half was left out); of all pairs that it holds, "
            f"{radius['precision']:.0%} are of one template ({precision})"
        )
    rows = [
        [_short(one["query"]), f"{one['within']:,}", f"{one['mean']:.3f}", _short(one["nearest"][0]["text"])]
        for one in found["found"][:shown]
    ]
    title = f"{found['instructions']:,} instructions, the emptiest places first"
    return [ReportListing(title, ["request", "near", "mean cosine", "nearest"], rows, [note, said])]


def _short(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
