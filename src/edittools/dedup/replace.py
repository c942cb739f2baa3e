"""De-identification, the second half: the chosen public image takes the private one's place, with its own words.

Choices are JSON lines {"id": the private row, "decision": "replace" or "reject", "choice": id of a public image of its
column `nearest`, "instruction": {"en", "zh"} where it was reworded}, as `edit eval study score --export` writes them of
a study of the design `replace`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from edittools.dedup.nearest import COLUMN
from edittools.errors import EditError, UsageError
from edittools.record import COLUMNS
from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.rows import column_values
from edittools.tables import read_by_id

KEPT = ("id", "task", "source", "instruction", "provenance")


def read_choices(path: str) -> dict[str, dict[str, Any]]:
    """The choices by private row. Raises EditError, with the line, for what is none, and for a row that comes twice."""

    def wrong(line: Mapping[str, Any]) -> str | None:
        if not isinstance(line.get("id"), str) or line.get("decision") not in ("replace", "reject", "open"):
            return "needs `id` and `decision`, one of replace, reject, open"
        if line["decision"] == "replace" and not isinstance(line.get("choice"), str):
            return "replaced, by which image? `choice` is missing"
        return None

    return read_by_id(path, "choice", wrong)


class ReplaceStage:
    """Rows of the chosen images: id, task, source, instruction, and the public image's provenance. Nothing else of a
    private row goes on, neither its id nor where it lay; what is dropped is called by its place in the set alone.
    """

    name = "dedup"
    VERSION = 1
    first_step: tuple[str, ...] | None = None

    def __init__(self, path: str) -> None:
        self.choices = read_choices(path)

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        return {"replace": digest(canonical_json(self.choices))}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if COLUMN not in schema.names:
            raise UsageError(
                f"--replace: the input has no column `{COLUMN}`", hint="edit dedup PRIVATE/ --nearest PUBLIC/"
            )
        return pa.schema([(name, COLUMNS[name]) for name in KEPT])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        shard, position = -1, 0
        for batch in batches:
            if batch.shard.index != shard:
                shard, position = batch.shard.index, 0
            yield self._replaced(batch, position)
            position += batch.rows.num_rows

    def _replaced(self, batch: Batch, start: int) -> Batch:
        made, rejects = [], []
        names = ("id", "task", "instruction", "provenance", COLUMN)
        for place, row in enumerate(zip(*(column_values(batch.rows, name) for name in names)), start):
            identity, *facts = row
            choice = self.choices.get(identity)
            if choice is None or choice["decision"] != "replace":
                why = "no public image was chosen" if choice is None else f"choice: {choice['decision']}"
                # Its id may be made of its bytes, and its path may say whose it is.
                rejects.append(Reject(f"row {place} of shard {batch.shard.index}", self.name, why))
                continue
            made.append(_row(choice, *facts))
        return batch.replace(pa.RecordBatch.from_pylist(made, schema=self.schema(batch.rows.schema)), rejects)


def _row(choice: dict[str, Any], task: Any, words: Any, origin: Any, nearest: Any) -> dict[str, Any]:
    """Raises EditError for a choice that was not among the candidates."""
    chosen = next((one for one in nearest or () if one["id"] == choice["choice"]), None)
    if chosen is None:
        raise EditError(f"row {choice['id']}: {choice['choice']} is none of its `{COLUMN}`")
    before = words if isinstance(words, dict) else {"en": words}
    said = {name: text for name, text in (choice.get("instruction") or before).items() if name in ("en", "zh")}
    return {
        "id": digest(chosen["id"], canonical_json(said))[:24],
        "task": task,
        "source": [chosen["image"]],
        "instruction": said,
        "provenance": {
            "origin": chosen["origin"],
            "path": chosen["path"],
            "license": chosen["license"],
            "native_task": (origin or {}).get("native_task"),
            "parents": [chosen["id"]],
        },
    }
