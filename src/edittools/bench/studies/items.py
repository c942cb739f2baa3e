"""Rows as items of a study that asks about one edit at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, RowError, UsageError
from edittools.seeded import stream as seeded_stream
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.row_images import column_references, list_references
from edittools.stream.rows import column_values

ROW = "row"
"""What the key calls the one result of a case that is a row."""

IMAGES = ("result", "target")
"""The edited image of a row: what a model made of it, or else the row's own."""


@dataclass(frozen=True)
class Item:
    """One row without its pixels."""

    id: str
    task: str
    instruction: dict[str, str]
    sources: list[dict[str, Any]]
    shown: dict[str, dict[str, Any]]  # what is asked about: image by name
    score: float | None = None  # by which the items are balanced


def read_items(
    batches: Iterable[Batch], image: str | None = None, score: str | None = None, candidates: str = ""
) -> list[Item]:
    """The rows of a set. `image` is the column of the edited image: of IMAGES the first there is, else the source,
    which is then shown alone; `score` is one of `scores`; `candidates` a column of lists of {id, image} that is asked
    about instead of the edited image.

    Raises UsageError for a column that is not there, EditError for an id that comes twice.
    """
    items: dict[str, Item] = {}
    for batch in batches:
        rows = batch.rows
        if not rows.num_rows:
            continue
        # Cases of a benchmark have no edited image: then the source is what is asked about.
        column = candidates or image or next((name for name in IMAGES if name in rows.schema.names), "source")
        for needed in ("source", column):
            if needed not in rows.schema.names:
                raise UsageError(f"the input has no `{needed}`", hint="the design asks about edit rows")
        shown = (
            _candidates(rows, column) if candidates
            else [{}] * rows.num_rows if column == "source"
            else _edited(rows, column)
        )  # fmt: skip
        for identity, task, said, sources, images, scores in zip(
            column_values(rows, "id"),
            column_values(rows, "task"),
            column_values(rows, "instruction"),
            list_references(rows, "source"),
            shown,
            column_values(rows, "scores"),
        ):
            if score is not None and score not in (scores or {}):
                raise UsageError(f"--balance {score}: the input has no such score")
            if identity in items:
                raise EditError(f"row {identity} comes twice: answers are told apart by the id")
            words = said if isinstance(said, dict) else {"en": said}
            kept = {name: text for name, text in words.items() if isinstance(text, str) and text.strip()}
            value = (scores or {}).get(score) if score else None
            if column == "source":
                sources, images = sources[1:], {ROW: sources[0]} if sources else {}
            items[str(identity)] = Item(str(identity), str(task or "-"), kept, sources, images, value)
    return list(items.values())


def _edited(rows: pa.RecordBatch, column: str) -> list[dict[str, dict[str, Any]]]:
    return [{} if one is None else {ROW: one} for one in column_references(rows, column)]


def _candidates(rows: pa.RecordBatch, column: str) -> list[dict[str, dict[str, Any]]]:
    return [{one["id"]: one["image"] for one in several or ()} for several in column_values(rows, column)]


def balanced(items: Sequence[Item], per_score: int, seed: int) -> list[Item]:
    """At most so many items of each whole score, drawn at random; those without a score are left out."""
    by_score: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        if item.score is not None and np.isfinite(item.score):
            by_score[round(item.score)].append(item)
    drawn: set[str] = set()
    for level, members in by_score.items():
        order = seeded_stream(seed, "score", level).permutation(len(members))
        drawn.update(members[index].id for index in order[:per_score])
    return [item for item in items if item.id in drawn]


def pixels_of(item: Item, fetcher: Fetcher) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """The sources, and what is asked about. Raises RowError where one cannot be read, or there is nothing to show."""
    if not item.instruction:
        raise RowError("no instruction")
    if not item.shown:
        raise RowError("no image to ask about")
    shown = {name: codec.decode(fetcher.get(image)) for name, image in item.shown.items()}
    return [codec.decode(fetcher.get(one)) for one in item.sources], shown


def readable(
    items: Iterable[Item], dropped: list[dict[str, Any]]
) -> Iterator[tuple[Item, list[np.ndarray], dict[str, np.ndarray]]]:
    """The items with their pixels, one at a time; the others go to `dropped`."""
    fetcher = Fetcher()
    for item in items:
        try:
            sources, shown = pixels_of(item, fetcher)
        except RowError as error:
            dropped.append({"id": item.id, "task": item.task, "reason": str(error)})
        else:
            yield item, sources, shown
