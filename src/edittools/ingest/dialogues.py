"""Rows that are the turns of dialogues, one below the other, as one row for each dialogue."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.record import COLUMNS, TEXT, TURN
from edittools.stream.batch import Batch
from edittools.stream.columns import in_its_language
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.schemas import align_array

_OF_ONE_TURN = ("mask",)  # columns that say something of one turn, which has them


class Dialogues:
    """Stage: rows of one shard that follow each other with the same `group` become a row with `turns`, in the order of
    the column `turn`.

    A turn's parent is the turn whose image it edits: the last one before it with that very image, -1 where it begins
    with the first source again, else the turn before. The dialogue has the first turn's source and other columns, and
    the last turn's target. A row that is alone in its group stays as it is; a dialogue that the end of a shard cuts is
    two, the second of which begins with what the first came to; so is one that lacks a turn
    (has numbers 1 and 3) whose image the next one edits.
    """

    name = "dialogues"
    VERSION = 2

    def __init__(self, group: str, turn: str) -> None:
        self.group, self.turn = group, turn
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        return {}  # the setting is Ingest's

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in (self.group, self.turn, "source", "target", "instruction"):
            if name not in schema.names:
                has = f"it has: {', '.join(schema.names)}"
                raise UsageError(f"--dialogues {self.group},{self.turn}: the input has no column `{name}`", hint=has)
        fields = {field.name: field.type for field in schema if field.name != self.turn}
        return pa.schema([*(fields | {"turns": COLUMNS["turns"], "instruction": TEXT}).items()])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        waiting: list[dict[str, Any]] = []
        for batch in batches:
            schema = self.schema(batch.rows.schema)
            made: list[dict[str, Any]] = []
            for row in batch.rows.to_pylist():
                if waiting and (row[self.group] is None or row[self.group] != waiting[0][self.group]):
                    made += map(self._dialogue, self._whole(waiting))
                    waiting = []
                waiting.append(row)
            if batch.last and waiting:
                made += map(self._dialogue, self._whole(waiting))
                waiting = []
            columns = [align_array(pa.array([row.get(f.name) for row in made], type=f.type), f.type) for f in schema]
            yield batch.replace(pa.record_batch(columns, schema=schema))

    def _whole(self, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """The rows of a group in order, in parts: behind a missing turn one begins that edits no image before it."""
        parts: list[list[dict[str, Any]]] = []
        known: set[str] = set()
        for row in sorted(rows, key=lambda row: (row[self.turn] is None, row[self.turn])):
            before, number = parts[-1][-1][self.turn] if parts else None, row[self.turn]
            gap = isinstance(before, int) and isinstance(number, int) and number > before + 1
            source = self._content((row["source"] or [None])[0])
            if not parts or (gap and source not in known):
                parts.append([])
                known = {source}
            parts[-1].append(row)
            known.add(self._content(row["target"]))
        return parts

    def _dialogue(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [{**row, "instruction": in_its_language(row["instruction"])} for row in rows]
        if len(rows) == 1:
            return {**rows[0], "turns": None}
        names = {field.name for field in TURN}
        turns = [
            {name: value for name, value in row.items() if name in names} | {"parent": parent}
            for row, parent in zip(rows, self._parents(rows))
        ]
        said = [row["instruction"] or {} for row in rows]
        words = {name: " ".join(text[name] for text in said if text.get(name)) or None for name in ("en", "zh")}
        first = {name: None if name in _OF_ONE_TURN else value for name, value in rows[0].items()}
        return {**first, "target": rows[-1]["target"], "instruction": words, "turns": turns}

    def _parents(self, rows: list[dict[str, Any]]) -> list[int]:
        """Which turn each one edits, by its image."""
        made = {self._content((rows[0]["source"] or [None])[0]): -1}
        parents = []
        for number, row in enumerate(rows):
            parents.append(made.get(self._content((row["source"] or [None])[0]), number - 1))
            made[self._content(row["target"])] = number
        return parents

    def _content(self, image: dict[str, Any] | None) -> str:
        """A hash of an image; of one that cannot be read something that no other has."""
        try:
            return hashlib.sha256(self.fetcher.get(image)).hexdigest() if image is not None else f"none {id(self)}"
        except RowError:
            return f"unread {image}"
