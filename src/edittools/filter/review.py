"""The stage that does what people decided about pairs: JSON lines, one per row.

A line is {"id", "decision": accept, correct, reject or open, "reason", "instruction": {"en", "zh"} of a correction,
"votes": [{"rater", "decision", "reason"}], "study"}, as `edit eval study score --export` writes them of a review.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from edittools.errors import UsageError
from edittools.filter.config import FilterSettings
from edittools.record import PROVENANCE, TEXT
from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.rows import column_values, row_paths
from edittools.tables import read_by_id

COLUMN = "instruction_reviewed"
DECISIONS = ("accept", "correct", "reject", "open")


def read_reviews(path: str) -> dict[str, dict[str, Any]]:
    """The decisions by row. Raises EditError, with the line, for what is none, and for a row that comes twice."""

    def wrong(line: Mapping[str, Any]) -> str | None:
        if not isinstance(line.get("id"), str) or line.get("decision") not in DECISIONS:
            return f"needs `id` and `decision`, one of {', '.join(DECISIONS)}"
        words = line.get("instruction")
        said = words.values() if isinstance(words, dict) else ()
        if line["decision"] == "correct" and not any(isinstance(text, str) and text.strip() for text in said):
            return "a correction without its instruction"
        return None

    return read_by_id(path, "review", wrong)


class ReviewStage:
    """Keep the rows that people accepted or corrected, with the words that they agreed to in COLUMN;
    `provenance.review` says who decided what, as JSON.
    """

    name = "filter"
    VERSION = 1
    first_step: tuple[str, ...] | None = None

    def __init__(self, config: FilterSettings) -> None:
        assert config.review is not None
        if config.mark is not None:
            raise UsageError("--mark says by which filter a row would be dropped: --review drops it")
        self.reviews = read_reviews(config.review)
        self.seen: Counter[str] = Counter()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: the decisions, not where they lie."""
        return {"review": digest(canonical_json(self.reviews))}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "id" not in schema.names:
            raise UsageError("--review: the input has no column `id`")
        fields = {field.name: field.type for field in schema}
        known = fields.get("provenance", PROVENANCE)
        inner = {field.name: field.type for field in (known if pa.types.is_struct(known) else PROVENANCE)}
        fields["provenance"] = pa.struct([*(inner | {"review": pa.string()}).items()])
        return pa.schema([*(fields | {COLUMN: TEXT}).items()])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield self._apply(batch)

    def _apply(self, batch: Batch) -> Batch:
        rows, made = batch.rows, self.schema(batch.rows.schema)
        ids = column_values(rows, "id")
        found = [self.reviews.get(identity) for identity in ids]
        self.seen.update("not seen" if one is None else one["decision"] for one in found)
        kept = [one is not None and one["decision"] in ("accept", "correct") for one in found]
        paths = row_paths(rows)
        rejects = [
            Reject(ids[k], self.name, *_reason(found[k]), False, paths[k]) for k, keep in enumerate(kept) if not keep
        ]
        rows = rows.filter(pa.array(kept, pa.bool_()))
        reviews = [one for one, keep in zip(found, kept) if keep and one is not None]
        earlier = COLUMN if COLUMN in rows.schema.names else "instruction"  # of a review before this one
        said = [
            _text(one["instruction"] if one["decision"] == "correct" else old)
            for one, old in zip(reviews, column_values(rows, earlier))
        ]
        origins = column_values(rows, "provenance")
        told = [{**(origin or {}), "review": _told(one)} for origin, one in zip(origins, reviews)]
        new = {COLUMN: pa.array(said, TEXT), "provenance": pa.array(told, made.field("provenance").type)}
        columns = [new[name] if name in new else rows.column(name) for name in made.names]
        return batch.replace(pa.record_batch(columns, schema=made), rejects)

    def remark(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.seen.most_common())


def _reason(review: dict[str, Any] | None) -> tuple[str, Any]:
    """Of a reject: what it is called, and what people said."""
    if review is None:
        return "not reviewed", None
    return f"review: {review['decision']}", review.get("reason")


def _text(words: Any) -> dict[str, str | None] | None:
    if not isinstance(words, dict):
        return {"en": str(words), "zh": None} if words else None
    return {field.name: words.get(field.name) or None for field in TEXT}


def _told(review: dict[str, Any]) -> str:
    names = ("decision", "votes", "study")
    return json.dumps({name: review[name] for name in names if review.get(name)}, ensure_ascii=False, sort_keys=True)
