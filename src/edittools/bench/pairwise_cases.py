"""The cases that the page of pairwise comparisons shows: the source, both results, and what was said of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from edittools.bench.judged import thumbnail, without_repeats
from edittools.judge.rubrics.pairwise import ORDERS
from edittools.record import IMAGE
from edittools.stream.fetch import Fetcher, image_references, kept_reference
from edittools.stream.row_images import row_images
from edittools.stream.rows import column_values
from edittools.suites.shared.types import JudgedCase

SHOWN = 200
"""Comparisons on the page, the most contested first: with three images each about 6 MB."""
_SIDE = 256

Outcome = tuple[float, float, float]


@dataclass(frozen=True)
class Duel:
    """One comparison as it is shown. `said` are the judgements by judge, pass by pass, `images` references to the
    source and the two results."""

    id: str
    instruction: str
    said: Mapping[str, Sequence[Mapping[str, Any]]]
    images: tuple[dict[str, Any] | None, ...]


def result_columns(schema: pa.Schema, history: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The columns of the two results: what the judge was told (`edit judge --other-column`), or else the
    result and the only further column of images. None where that says nothing, and where the source is not there."""
    told = [node.get("settings") or {} for node in history if node.get("command") == "judge"]
    named = [settings for settings in told if settings.get("other_column") in schema.names]
    usual = next((name for name in ("result", "target") if name in schema.names), "")
    others = [field.name for field in schema if field.type == IMAGE and field.name not in ("target", "result", "mask")]
    pair = (usual, others[0] if len(others) == 1 else "")
    if named:
        pair = (named[-1].get("column") or usual, named[-1]["other_column"])
    return pair if {"id", "source", "instruction", *pair} <= set(schema.names) else None


def duels(
    rows: pa.RecordBatch, columns: tuple[str, str], said: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]
) -> list[Duel]:
    """Those of a batch, given each row's judgements by judge."""
    images = zip(*(image_references(row_images(rows, name)) for name in ("source", *columns)))
    texts = [next((text for text in (one or {}).values() if text), "") for one in column_values(rows, "instruction")]
    return [
        Duel(identity, text, judgements, tuple(map(kept_reference, shown)))
        for identity, text, judgements, shown in zip(column_values(rows, "id"), texts, said, images)
    ]


def _words(said: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, float | None, str]]:
    words = []
    for judge, passes in said.items():
        for number, one in enumerate(passes, 1):
            named = [judge] if len(said) > 1 else []
            named += [f"pass {number}"] if len(passes) > 1 else []
            told = "\n".join(filter(None, (one["error"], _both_orders(one["reply"]))))
            words.append((", ".join(["preference", *named]), one["score"], told))
    return words


def _both_orders(reply: str | None) -> str | None:
    """The replies in both orders, which stand in one JSON object, each on a line of its own."""
    try:
        orders = json.loads(reply or "")
    except ValueError:
        return reply
    if not isinstance(orders, dict) or not orders.keys() <= set(ORDERS):
        return reply
    return "\n".join(f"{order}: {said}" for order, said in orders.items() if said)


def contested(outcome: Outcome | None, alone: Iterable[Outcome | None]) -> tuple[bool, float, float]:
    """What comparisons are sorted by: those without an outcome first, then those of which judges say the most different
    things, then those that are nearest to even."""
    if outcome is None:
        return (False, 0.0, 0.0)
    values = [win + tie / 2 for win, tie, _ in filter(None, alone)]
    apart = max(values) - min(values) if values else 0.0
    return (True, -apart, abs(outcome[0] - outcome[2]))


def shown_duel(
    duel: Duel, first: str, second: str, outcome: Outcome | None, reason: str, fetcher: Fetcher
) -> JudgedCase:
    """With its images; its score is the first model's share, a tie being half a win."""
    share = None if outcome is None else outcome[0] + outcome[1] / 2
    verdict = (
        "no outcome" if share is None else "tie" if share == 0.5 else f"{first if share > 0.5 else second} is better"
    )
    words = _words(duel.said) or [("preference", share, reason)]
    captions = ("source", first, second)
    return JudgedCase(
        duel.id,
        f"{first} and {second}",
        duel.instruction,
        share,
        verdict,
        without_repeats(words),
        [(caption, thumbnail(image, fetcher, _SIDE)) for caption, image in zip(captions, duel.images)],
        verdict if share is None else f"{verdict}: {share:g} to {1 - share:g}",
    )
