"""The stage that applies a verdict, and in one command makes it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.background import Background
from edittools.dedup.decide import decide
from edittools.dedup.fingerprint import READ, Fingerprint, are_prints
from edittools.dedup.ids import check_ids
from edittools.dedup.prints import Prints
from edittools.dedup.rule import Rule, difference, load_models
from edittools.dedup.store import Store
from edittools.dedup.verdict import (
    decided,
    groups,
    note,
    read_verdict,
    with_note,
    without_groups,
    write_verdict,
)
from edittools.errors import EditError, UsageError
from edittools.stream import images
from edittools.stream.batch import Batch, Reject
from edittools.stream.history import digest
from edittools.stream.pictures import check_any_pictures, check_columns
from edittools.stream.rows import column_values, row_paths

VERSION = 2 + images.VERSION  # changed when the results of the same rule do
GROUP = "cluster"  # the column of the group by likeness


class DedupStage:
    """Drop (or mark) every copy but one. Two passes: fingerprint everything, decide, apply.

    `fingerprint` makes the first step's stage, where it is to be another than the rule's own on the processor.
    """

    name = "dedup"
    version = VERSION
    first_step: tuple[str, ...] | None = ("--step", "fingerprint")

    def __init__(
        self,
        rule: Rule,
        *,
        mark: str | None = None,
        jobs: int = 1,
        fingerprint: Callable[[], Fingerprint] | None = None,
        against: Store | None = None,
        background: Background | None = None,
    ) -> None:
        self.rule, self.mark, self.jobs = rule, mark, jobs
        self.fingerprint, self.against, self.background = fingerprint, against, background
        self.prints = Prints()
        self.verdict_digest: str | None = None
        self.verdict: pa.Table | None = None
        self.clusters = False  # whether the rows get the column
        self.groups: dict[int, np.ndarray] = {}
        self.ids: dict[str, str] | None = None  # that the rows have to have: of a verdict made before

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, *READ)
        check_any_pictures(schema)
        # Clusters that an earlier command made stay, unless some are asked for.
        self.clusters = self.rule.groups and (GROUP not in schema.names or self.rule.centroids is not None)
        if self.clusters and GROUP in schema.names:
            schema = schema.remove(schema.get_field_index(GROUP))
        if self.clusters:
            schema = schema.append(pa.field(GROUP, pa.int32()))
        if self.mark is None:
            return schema
        if self.mark in schema.names:
            raise UsageError(f"--mark {self.mark}: the input has such a column already")
        return schema.append(pa.field(self.mark, pa.string()))

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on as they are; keep their fingerprints."""
        before: Batch | None = None
        made = self.fingerprint() if self.fingerprint is not None else self._own_fingerprint()
        for batch, piece in made.beside(batches):
            if before is not None and batch is not before:
                yield before
            before = batch
            self.prints.add(piece.rows)
        if before is not None:
            yield before

    def _own_fingerprint(self) -> Fingerprint:
        names = {name: name for name in self.rule.models}
        models = load_models(self.rule, names, device="cpu", dtype="float32", revision=None)
        return Fingerprint(self.rule, max_pixels=images.MAX_PIXELS, jobs=self.jobs, models=models)

    def gather(self, batches: Iterator[Batch]) -> None:
        """Take the fingerprints that `--step fingerprint` wrote. Raises UsageError where it did not."""
        for batch in batches:
            known = self.prints.schema
            if not are_prints(batch.rows.schema) or (known is not None and not batch.rows.schema.equals(known)):
                raise UsageError("--step verdict reads the folder that --step fingerprint wrote")
            self.prints.add(batch.rows)

    def decide(self) -> None:
        learnt = self.background.learn() if self.background is not None else None
        if self.against is not None:
            self.against.load(self.prints)
        verdict = decide(self.prints, self.rule, self.jobs, learnt)
        if self.against is not None:
            self.against.save(verdict)
        self._set(with_note(verdict.table(), self.rule.stated(), self.prints.ids.digests()))
        self.prints = Prints()

    def _set(self, verdict: pa.Table) -> None:
        self.verdict = verdict
        rows = without_groups(verdict)
        columns = [rows.column(name) for name in ("shard", "row", "duplicate_of", "reason", "error")]
        self.groups = groups(verdict)
        pieces = (f"{shard} {digest(values.tobytes().hex())}" for shard, values in self.groups.items())
        self.verdict_digest = digest(*(str(column.to_pylist()) for column in columns), *pieces)
        self.dropped: dict[int, dict[int, dict[str, Any]]] = {}
        for item in decided(verdict):
            self.dropped.setdefault(item["shard"], {})[item["row"]] = item

    def save_verdict(self, path: str) -> None:
        assert self.verdict is not None
        write_verdict(self.verdict, path)

    def load_verdict(self, path: str) -> None:
        """Raises EditError where it was made by another rule."""
        verdict = read_verdict(path)
        made = note(verdict)
        if made is not None:
            other = difference(made["rule"], self.rule.stated())
            if other is not None:
                raise EditError(f"{path}: a verdict made with {other}", hint="give the options that --step verdict had")
            self.ids = made["ids"]
        self._set(verdict)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        if self.ids is not None:
            batches = check_ids(batches, self.ids)
        shard, position = -1, 0
        for batch in batches:
            if batch.shard.index != shard:
                shard, position = batch.shard.index, 0
            yield self._apply(batch, self.dropped.get(shard, {}), position)
            position += batch.rows.num_rows
            if batch.last and max(self.dropped.get(shard, {}), default=-1) >= position:
                raise EditError(
                    f"the verdict is not about this input: shard {shard} has only {position} rows",
                    hint="make the verdict again from the same input",
                )

    def _apply(self, batch: Batch, dropped: dict[int, dict[str, Any]], start: int) -> Batch:
        rows = batch.rows
        found = {k: dropped[start + k] for k in range(rows.num_rows) if start + k in dropped} if dropped else {}
        if not found and self.mark is None and not self.clusters:
            return batch
        ids = column_values(rows, "id")
        for k, item in found.items():
            if item["id"] != ids[k]:
                raise EditError(
                    f"the verdict is not about this input: it says {item['id']} where {ids[k]} is",
                    hint="make the verdict again from the same input",
                )
        paths = row_paths(rows)
        failed = {k for k, item in found.items() if item["error"] is not None}
        gone = failed if self.mark is not None else set(found)
        if self.clusters:
            values = self.groups.get(batch.shard.index, np.zeros(0, np.int32))[start : start + rows.num_rows]
            if len(values) < rows.num_rows:
                raise EditError(
                    f"the verdict is not about this input: it has {start + len(values)} rows of shard "
                    f"{batch.shard.index}, and there are more",
                    hint="make the verdict again from the same input",
                )
            if GROUP in rows.schema.names:
                rows = rows.drop_columns([GROUP])
            rows = rows.append_column(GROUP, pa.array(values, pa.int32(), mask=values < 0))
        rejects = [self._reject(str(ids[k]), found[k], paths[k]) for k in sorted(gone)]
        if self.mark is not None:
            marks = [found[k]["duplicate_of"] or found[k]["reason"] if k in found else None for k in range(len(ids))]
            rows = rows.append_column(self.mark, pa.array(marks, pa.string()))
        if gone:
            rows = rows.filter(pa.array([k not in gone for k in range(rows.num_rows)]))
        return batch.replace(rows, rejects)

    def _reject(self, identity: str, item: dict[str, Any], path: str | None) -> Reject:
        if item["error"] is not None:
            return Reject(identity, self.name, item["error"], item["error_value"], True, path)
        far = item["distance"]
        value = {"of": item["duplicate_of"], "metric": item["metric"], "distance": far if far != 0 else 0}
        if item["metric"] == "phash" and far is not None:
            value["distance"] = int(far)
        if item["set"] is not None:
            value["set"] = item["set"]
        return Reject(identity, self.name, item["reason"], value, False, path)
