"""Decisions on every row, and the file that holds them.

Which copy stays: one that an earlier run kept, then the one with most pixels, then the sharpest (at the signature's
raster), then the smallest id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.errors import EditError
from edittools.stream import files
from edittools.stream.history import canonical_json
from edittools.stream.ipc import arrow_errors

DECISIONS = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("cluster", pa.int64()),
        ("duplicate_of", pa.string()),  # null for the copy that stays
        ("set", pa.string()),  # where that one is, if an earlier run kept it
        ("reason", pa.string()),  # null for the copy that stays
        # To the copy that stays; null where the row is a copy of a copy that a later step dropped.
        ("metric", pa.string()),  # exact, pixels, phash, or the name of a model
        ("distance", pa.float64()),  # in bits, or 1 - cosine (or normalised score)
        ("error", pa.string()),  # the row's images could not be read
        ("error_value", pa.string()),
        # One row per shard has this and no id: int32 of every row of the shard, its group by likeness, -1 for none.
        ("groups", pa.binary()),
    ]
)
_KEY = b"edit.dedup"
Measure = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Decisions:
    """Decisions on all rows so far. They are taken one after the other; each sees the rows that are left."""

    def __init__(self, fingerprints: FingerprintTable) -> None:
        self.fingerprints = fingerprints
        count = fingerprints.rows
        self.readable = np.asarray(fingerprints.table.column("error").is_null()) if count else np.zeros(0, bool)
        self.fresh = np.arange(count) < fingerprints.new
        self.of = np.arange(count)  # which row it is a copy of; itself where it stays
        self.reasons: list[str | None] = [None]
        self.metrics: list[str | None] = [None]
        self.reason, self.metric = np.zeros(count, np.int16), np.zeros(count, np.int16)
        self.distance = np.full(count, np.nan)
        self.groups: np.ndarray | None = None  # int32 by row, -1 for none: rows that are alike, copies or not

    def kept(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that nothing has been decided against."""
        return rows[self.readable[rows] & (self.reason[rows] == 0)]

    def drop(self, rows: np.ndarray, of: np.ndarray, reason: str, metric: str | np.ndarray, far: np.ndarray) -> None:
        """Decide against rows. Those of earlier runs stay whatever happens."""
        fresh = self.fresh[rows]
        rows, of, far = rows[fresh], of[fresh], far[fresh]
        self.of[rows], self.distance[rows] = of, far
        self.reason[rows] = _code(self.reasons, reason)
        if isinstance(metric, str):
            self.metric[rows] = _code(self.metrics, metric)
        else:
            for name in np.unique(metric[fresh]):
                self.metric[rows[metric[fresh] == name]] = _code(self.metrics, str(name))

    def keep_best(
        self, labels: np.ndarray, reason: str, measure: Measure, most: int = 1, by_chance: bool = False
    ) -> None:
        """Of the rows left with one label keep the best, or `most` of them; by chance, a hash of the id chooses."""
        rows = self.kept(np.arange(len(labels)))
        rows = rows[np.bincount(labels[rows], minlength=len(labels))[labels[rows]] > most] if len(rows) else rows
        if not len(rows):
            return
        rows = rows[self._order(rows, labels, by_chance)]
        starts = np.flatnonzero(np.r_[True, labels[rows][1:] != labels[rows][:-1]])
        lengths = np.diff(np.r_[starts, len(rows)])
        rank = np.arange(len(rows)) - np.repeat(starts, lengths)
        gone = rank >= most
        best = np.repeat(rows[starts], lengths)
        metric, far = measure(rows[gone], best[gone])
        self.drop(rows[gone], best[gone], reason, metric, far)

    def _order(self, rows: np.ndarray, labels: np.ndarray, by_chance: bool) -> np.ndarray:
        table = self.fingerprints.table
        ids = table.column("id").take(pa.array(rows))
        if by_chance:
            ids = pa.array([hashlib.sha256(identity.encode()).hexdigest() for identity in ids.to_pylist()])
        rank = np.empty(len(rows), np.int64)
        rank[pc.sort_indices(ids).to_numpy()] = np.arange(len(rows))
        # Old rows first: what was decided stays. Then the best; by place where everything is equal, even the ids.
        keys = [self.fingerprints.numbers("row")[rows], self.fingerprints.numbers("shard")[rows], rank]
        if not by_chance:
            keys += [-self.fingerprints.numbers("detail")[rows], -self.fingerprints.numbers("pixels")[rows]]
        return np.lexsort([*keys, self.fresh[rows], labels[rows]])

    def table(self) -> pa.Table:
        """Every member of every cluster of two or more, what was dropped for itself, and what failed."""
        if not self.fingerprints.rows:
            return DECISIONS.empty_table()
        fingerprints, of = self.fingerprints.table, self.of
        while not np.array_equal(above := of[of], of):  # a copy of what became a copy itself
            of = above
        measured = of == self.of  # how near it is was said of the copy that stays
        count = len(of)
        clustered = np.bincount(of, minlength=count)[of] > 1
        first = np.full(count, count)
        np.minimum.at(first, of, np.arange(count))
        rows = np.flatnonzero((clustered | (self.reason > 0) | ~self.readable) & self.fresh)
        failed = ~self.readable[rows]
        rank = np.zeros(len(rows), np.int64)
        members = rows[~failed]
        rank[np.flatnonzero(~failed)[self._order(members, np.zeros(count, np.int64), False)]] = np.arange(len(members))
        rows = rows[np.lexsort([rank, of[rows] != rows, first[of[rows]], failed])]
        failed = ~self.readable[rows]
        ids = fingerprints.column("id")
        copy = of[rows] != rows
        clustered = clustered[rows]
        number = np.unique(first[of[rows[clustered]]], return_inverse=True)[1]
        cluster = np.zeros(len(rows), np.int64)
        cluster[clustered] = number
        measured = measured[rows]
        far = np.where(measured, self.distance[rows], np.nan)
        taken = fingerprints.select(["shard", "row", "error", "error_value"]).take(pa.array(rows))
        made = pa.table(
            {
                "id": ids.take(pa.array(rows)),
                "shard": taken.column("shard"),
                "row": taken.column("row"),
                "cluster": pa.array(cluster, pa.int64(), mask=~clustered),
                "duplicate_of": ids.take(pa.array(of[rows], mask=~copy)),
                "set": fingerprints.column("set").take(pa.array(of[rows], mask=~copy)),
                "reason": pa.array([self.reasons[code] for code in self.reason[rows]], pa.string()),
                "metric": pa.array([self.metrics[code] for code in self.metric[rows] * measured], pa.string()),
                "distance": pa.array(far, pa.float64(), mask=np.isnan(far)),
                "error": taken.column("error"),
                "error_value": taken.column("error_value"),
                "groups": pa.nulls(len(rows), pa.binary()),
            }
        )
        return pa.concat_tables([made.cast(DECISIONS), self._groups()]).combine_chunks()

    def _groups(self) -> pa.Table:
        """The groups of the rows of this run, shard by shard."""
        if self.groups is None:
            return DECISIONS.empty_table()
        shard, row = (self.fingerprints.numbers(name)[: self.fingerprints.new] for name in ("shard", "row"))
        order = np.lexsort([row, shard])
        numbers, starts = np.unique(shard[order], return_index=True)
        parts = np.split(self.groups[: self.fingerprints.new][order].astype("<i4"), starts[1:])
        columns = {"shard": pa.array(numbers, pa.int32()), "groups": [part.tobytes() for part in parts]}
        return pa.table(
            {field.name: columns.get(field.name, pa.nulls(len(numbers), field.type)) for field in DECISIONS},
            schema=DECISIONS,
        )


def _code(names: list[str | None], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def with_note(decisions: pa.Table, rule: dict[str, Any], ids: dict[str, str]) -> pa.Table:
    """The decisions with a note of the rule they were made by and the digests of the shards' ids."""
    return decisions.replace_schema_metadata({_KEY: canonical_json({"rule": rule, "ids": ids})})


def note(decisions: pa.Table) -> dict[str, Any] | None:
    """The note that `with_note` wrote; None in older files."""
    found = (decisions.schema.metadata or {}).get(_KEY)
    return None if found is None else json.loads(found)


def write_decisions(decisions: pa.Table, path: str) -> None:
    """The decisions as one Parquet file."""
    with files.atomic(path) as file:
        pq.write_table(decisions, file, compression="zstd")


def read_decisions(path: str) -> pa.Table:
    """Read a file of decisions. Raises EditError for another file."""
    with arrow_errors(path):
        table = pq.read_table(files.open_read(path))
    if not table.schema.equals(DECISIONS):
        raise EditError(f"{path}: no decisions of edit dedup")
    return table


def without_groups(decisions: pa.Table) -> pa.Table:
    """The decisions on rows, without the groups."""
    return decisions.filter(pc.is_null(decisions.column("groups")))


def groups(decisions: pa.Table) -> dict[int, np.ndarray]:
    """The groups of decisions: of every shard int32 by row, -1 for none; empty where the rule makes none."""
    found = decisions.filter(pc.is_valid(decisions.column("groups")))
    values = [np.frombuffer(value, "<i4") for value in found.column("groups").to_pylist()]
    return dict(zip(found.column("shard").to_pylist(), values))


def decided(decisions: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows that are rejected."""
    out = pc.or_(pc.is_valid(decisions.column("reason")), pc.is_valid(decisions.column("error")))
    yield from decisions.filter(out).to_pylist()
