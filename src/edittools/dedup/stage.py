"""The stage that applies decisions, and in one command makes them first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.config import OF_REFERENCE_SET, DedupConfig
from edittools.dedup.decide import decide
from edittools.dedup.decisions import (
    decided,
    groups,
    note,
    read_decisions,
    with_note,
    without_groups,
    write_decisions,
)
from edittools.dedup.fingerprint import READ, Fingerprint, are_fingerprints
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.ids import check_ids
from edittools.dedup.reference_set import ReferenceSet
from edittools.dedup.rule import difference, load_models
from edittools.dedup.signature import of_bits
from edittools.dedup.store import SignatureStore
from edittools.errors import EditError, UsageError
from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History, digest
from edittools.stream.row_images import check_any_images, check_columns
from edittools.stream.rows import column_values, row_paths

GROUP = "cluster"  # the column of the group by likeness


class DedupStage:
    """Drop (or mark) every copy but one. Two passes: fingerprint everything, decide, apply.

    `against` is a folder with what earlier runs kept; `open_store` opens it, before the decisions are made.
    """

    name = "dedup"
    VERSION = 3
    first_step: tuple[str, ...] | None = ("--phase", "fingerprint")

    def __init__(
        self, config: DedupConfig, *, jobs: int = 1, against: str | None = None, step: str | None = None
    ) -> None:
        """`step` is the one of the three that is done alone (`--phase`); None: all, or the last."""
        self.config, self.jobs, self.against, self.step = config, jobs, against, step
        self.mark, self.models = config.mark, config.named
        self.rule = config.rule()
        if against and self.rule.eps is not None:
            raise UsageError("--against with --semantic: its clusters are of one set only")
        self.reference_set = (
            ReferenceSet(self.rule.reference_set, self.rule) if self.rule.reference_set is not None else None
        )
        if self.reference_set is not None:
            self.rule = replace(self.rule, reference_set=self.reference_set.content)  # not where it lies
        self.identities: dict[str, str] = {}  # of the models, known when they are loaded
        self.store: SignatureStore | None = None
        self.fingerprints = FingerprintTable()
        self.decisions_digest: str | None = None
        self.decisions: pa.Table | None = None
        self.clusters = False  # whether the rows get the column
        self.groups: dict[int, np.ndarray] = {}
        self.ids: dict[str, str] | None = None  # that the rows have to have: of decisions made before

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self._recorded(self.step)

    def _recorded(self, step: str | None) -> dict[str, Any]:
        # A name for what it is compared with, not where that lies: so that -o of another store is not continued.
        compared = self.against.rstrip("/").rsplit("/", 1)[-1] if self.against else None
        recorded = self.config.recorded_for(self.rule, compared) | ({"step": step} if step else {})
        # What the decisions alone ask for changes no fingerprint.
        return {
            name: value for name, value in recorded.items() if step != "fingerprint" or name not in OF_REFERENCE_SET
        }

    def open_store(self, name: str) -> SignatureStore:
        """Open what earlier runs kept; `name` is what these rows are called there. Raises UsageError."""
        assert self.against is not None
        self.store = SignatureStore(self.against, self.rule, name, self.identities)
        return self.store

    def fingerprint(self) -> Fingerprint:
        """The stage of the first step, its models loaded."""
        models = load_models(self.rule, self.models, **self.config.placed, revision=self.config.revision)
        self.identities.update({name: f"{model.name}@{model.revision}" for name, model in models.items()})
        if self.reference_set is not None:
            self.reference_set.check_models(self.identities)
        recorded = self._recorded("fingerprint")
        if self.identities:
            recorded["models"] = dict(self.identities)
        return Fingerprint(
            self.rule,
            max_pixels=self.config.max_pixels,
            jobs=self.jobs,
            models=models,
            batch_size=self.config.batch_size or 32,
            recorded=recorded,
        )

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, *READ)
        check_any_images(schema)
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
        for batch, piece in self.fingerprint().beside(batches):
            if before is not None and batch is not before:
                yield before
            before = batch
            self.fingerprints.add(piece.rows)
        if before is not None:
            yield before

    def gather(self, batches: Iterator[Batch]) -> None:
        """Take the fingerprints that `--phase fingerprint` wrote. Raises UsageError where it did not."""
        for batch in batches:
            known = self.fingerprints.schema
            if not are_fingerprints(batch.rows.schema) or (known is not None and not batch.rows.schema.equals(known)):
                raise UsageError("--phase decide reads the folder that --phase fingerprint wrote")
            self.fingerprints.add(batch.rows)

    def decide(self) -> None:
        statistics = self.reference_set.learn() if self.reference_set is not None else None
        if self.store is not None:
            self.store.load(self.fingerprints)
        decisions = decide(self.fingerprints, self.rule, self.jobs, statistics)
        if self.store is not None:
            self.store.save(decisions)
        self._set(with_note(decisions.table(), self.rule.stated(), self.fingerprints.ids.digests()))
        self.fingerprints = FingerprintTable()

    def _set(self, decisions: pa.Table) -> None:
        self.decisions = decisions
        rows = without_groups(decisions)
        columns = [rows.column(name) for name in ("shard", "row", "duplicate_of", "reason", "error")]
        self.groups = groups(decisions)
        pieces = (f"{shard} {digest(values.tobytes().hex())}" for shard, values in self.groups.items())
        self.decisions_digest = digest(*(str(column.to_pylist()) for column in columns), *pieces)
        self.dropped: dict[int, dict[int, dict[str, Any]]] = {}
        for item in decided(decisions):
            self.dropped.setdefault(item["shard"], {})[item["row"]] = item

    def save_decisions(self, path: str) -> None:
        assert self.decisions is not None
        write_decisions(self.decisions, path)

    def load_decisions(self, path: str) -> None:
        """Raises EditError where it was made by another rule."""
        decisions = read_decisions(path)
        made = note(decisions)
        if made is not None:
            other = difference(made["rule"], self.rule.stated())
            if other is not None:
                raise EditError(f"{path}: decisions made with {other}", hint="give the options that --phase decide had")
            self.ids = made["ids"]
        self._set(decisions)

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
                    f"the decisions are not about this input: shard {shard} has only {position} rows",
                    hint="decide again, from the same input",
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
                    f"the decisions are not about this input: they say {item['id']} where {ids[k]} is",
                    hint="decide again, from the same input",
                )
        paths = row_paths(rows)
        failed = {k for k, item in found.items() if item["error"] is not None}
        gone = failed if self.mark is not None else set(found)
        if self.clusters:
            values = self.groups.get(batch.shard.index, np.zeros(0, np.int32))[start : start + rows.num_rows]
            if len(values) < rows.num_rows:
                raise EditError(
                    f"the decisions are not about this input: they have {start + len(values)} rows of shard "
                    f"{batch.shard.index}, and there are more",
                    hint="decide again, from the same input",
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
        if item["metric"] in of_bits() and far is not None:
            value["distance"] = int(far)
        if item["set"] is not None:
            value["set"] = item["set"]
        return Reject(identity, self.name, item["reason"], value, False, path)
