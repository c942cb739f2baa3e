"""The stage that chooses groups of candidates by their scores, and the best candidates of a group."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, UsageError
from edittools.filter import Bounds
from edittools.filter.config import GROUP_BOUNDS, FilterSettings
from edittools.filter.direction import parse_rewards, reward_values, sign
from edittools.metrics.rewards import combined
from edittools.rounding import significant
from edittools.stream import files
from edittools.stream.batch import Batch, Reject, image_columns
from edittools.stream.groups import GROUP, group_slices, whole_groups
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.rows import column_values, row_paths
from edittools.stream.scores import check_score

SCORES = (*GROUP_BOUNDS, "group_n")
# What says something of one candidate, and not of the row that the group is of.
_GONE = (GROUP, "seed", "judgements", "scores")


class GroupStage:
    """Stage: groups whose scores meet the bounds, each as one row, or with `best` as its best rows.

    Bounds on quantiles make it a two-pass stage: `observe` keeps 8 bytes per group and bound.
    """

    name = "filter"
    VERSION = 1
    first_step: tuple[str, ...] | None = None  # the quantiles of a whole set are found by one process

    def __init__(self, config: FilterSettings) -> None:
        self.config, self.best = config, config.best
        self.rewards = parse_rewards(config.by, config.floor)
        self.bounds = config.group_bounds
        if not config.by:
            raise UsageError("--by: which score are the groups chosen by?")
        if self.best is None and not self.bounds:
            raise UsageError("--by: nothing is chosen", hint="--best N, --group-mean, --group-spread or --group-worst")
        if self.bounds and len(config.by) > 1:
            raise UsageError("--by: bounds of groups are on one score; several are for --best")
        if config.mark is not None:
            raise UsageError("--mark: groups become other rows, which nothing can be written beside")
        self.asked = {name: str(bound) for name, bound in self.bounds.items()}
        self.floors = sorted(config.floor)
        empirical = any(bound.empirical for bound in self.bounds.values())
        if empirical and (config.bounds or config.where is not None or config.region is not None):
            raise UsageError(
                "quantiles of groups are those of the rows that come in, and other bounds drop some",
                hint="two commands: edit filter with the other bounds, then edit filter with those of groups",
            )
        self.decisions_digest: str | None = None if empirical else digest("fixed")
        self.seen = {name: array("d") for name in self.bounds}

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """Nothing beside what the measuring stage of the same settings records."""
        return {}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if GROUP not in schema.names:
            raise UsageError(
                "the input has no column `group`: which rows are candidates of one?",
                hint="`edit sample --candidates K` makes them",
            )
        for reward in self.rewards:
            check_score(schema, reward.name)
        if self.best is not None:
            return schema
        scores = pa.field("scores", pa.struct([(name, pa.float64()) for name in SCORES]))
        return pa.schema([*(field for field in schema if not self._is_of_one(field)), scores])

    def _is_of_one(self, field: pa.Field) -> bool:
        if field.name in _GONE:
            return True
        return field.name.startswith("result") and bool(image_columns(pa.schema([field])))

    # ------------------------------------------------------------ the two passes

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass the rows on as they are; remember what the groups' scores are."""
        for batch in whole_groups(batches):
            for _, start, stop in group_slices(batch.rows):
                facts = self._facts(batch.rows.slice(start, stop - start))
                for name, values in self.seen.items():
                    if facts is not None:
                        values.append(facts[name])
            yield batch

    def gather(self, batches: Iterator[Batch]) -> None:
        """Measure without passing anything on."""
        for _ in self.observe(batches):
            pass

    def decide(self) -> None:
        """Turn quantiles into numbers. Groups without a score do not count."""
        self._resolved({name: bound.resolve(np.array(self.seen[name])) for name, bound in self.bounds.items()})

    def _resolved(self, bounds: dict[str, Bounds]) -> None:
        self.bounds = bounds
        self.decisions_digest = digest(canonical_json(self._said()))

    def _said(self) -> dict[str, list[float | None]]:
        return {name: [bound.low, bound.high] for name, bound in self.bounds.items()}

    def save_decisions(self, path: str) -> None:
        decisions = {"by": self.rewards[0].name, "asked": self.asked, "groups": self._said(), "floor": self.floors}
        files.write_bytes(path, (canonical_json(decisions) + "\n").encode())

    def load_decisions(self, path: str) -> None:
        """Use bounds that an earlier run found. Raises EditError where they are not for these groups."""
        try:
            decisions = json.loads(files.read_bytes(path))
            bounds = {name: Bounds(*decisions["groups"][name]) for name in self.bounds}
            said = decisions["by"], decisions["asked"], decisions.get("floor", [])
        except (ValueError, KeyError, TypeError) as error:
            raise EditError(f"{path}: no decisions for groups: {error!r}") from error
        if said != (self.rewards[0].name, self.asked, self.floors):
            raise EditError(
                f"{path}: decisions made with other bounds or another score",
                hint="give the options that --phase decide had",
            )
        self._resolved(bounds)

    # ------------------------------------------------------------ rows

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in whole_groups(batches):
            yield self._chosen(batch)

    def _chosen(self, batch: Batch) -> Batch:
        rows = batch.rows
        ids, paths = column_values(rows, "id"), row_paths(rows)
        chosen: list[int] = []
        names: list[str] = []
        scores: list[dict[str, float]] = []
        why: dict[int, tuple[str, float | None]] = {}
        for name, start, stop in group_slices(rows):
            members = rows.slice(start, stop - start)
            reason, facts = self._outside(members)
            if reason is not None:
                why |= {row: reason for row in range(start, stop)}
            elif self.best is None:
                chosen.append(start)
                names.append(name)
                scores.append(facts)
            else:
                chosen += self._best(members, start, why)
        rejects = [
            Reject(str(ids[row]), self.name, reason, value, False, paths[row])
            for row, (reason, value) in sorted(why.items())
        ]
        result = rows.take(pa.array(chosen, pa.int64()))
        return batch.replace(result if self.best is not None else self._as_rows(result, names, scores), rejects)

    def _facts(self, members: pa.RecordBatch) -> dict[str, float] | None:
        """Mean, spread (standard deviation, n in the denominator), worst and number of a group's scores, if any."""
        values = [v for v in combined(reward_values(members, self.rewards), self.rewards) if v is not None]
        if not values:
            return None
        toward = sign(self.rewards[0].name)
        facts = [toward * float(np.mean(values)), float(np.std(values)), toward * min(values), float(len(values))]
        return dict(zip(SCORES, map(significant, facts)))

    def _outside(self, members: pa.RecordBatch) -> tuple[tuple[str, float | None] | None, dict[str, float]]:
        """Why a group is dropped, or what its scores are."""
        if not self.bounds:
            return None, {}
        facts = self._facts(members)
        if facts is None:
            return ("no score", None), {}
        for name, bound in self.bounds.items():
            if not bound.passes(np.array([facts[name]]))[0]:
                return (name, facts[name]), {}
        return None, facts

    def _best(self, members: pa.RecordBatch, start: int, why: dict[int, tuple[str, float | None]]) -> list[int]:
        """The best rows of a group in their order; `why` is told of the others."""
        values = combined(reward_values(members, self.rewards), self.rewards)
        back = sign(self.rewards[0].name) if len(self.config.by) == 1 else 1.0
        ranked = sorted((-value, k) for k, value in enumerate(values) if value is not None)
        best = sorted(k for _, k in ranked[: self.best])
        for k, value in enumerate(values):
            if value is None:
                why[start + k] = "no score", None
            elif k not in best:
                why[start + k] = "not among the best", significant(back * value)
        return [start + k for k in best]

    def _as_rows(self, rows: pa.RecordBatch, names: list[str], scores: list[dict[str, float]]) -> pa.RecordBatch:
        """The first row of every group as the row that it is of, with the group's scores."""
        schema = self.schema(rows.schema)
        columns = {"id": pa.array(names, pa.string()), "scores": pa.array(scores, schema.field("scores").type)}
        if "provenance" in schema.names:  # the candidates' model, seed and parent are not the row's
            of_one = dict.fromkeys(("model", "seed", "parents"))
            values = [
                None if origin is None else {key: of_one.get(key, value) for key, value in origin.items()}
                for origin in column_values(rows, "provenance")
            ]
            columns["provenance"] = pa.array(values, schema.field("provenance").type)
        return pa.record_batch(
            [columns[f.name] if f.name in columns else rows.column(f.name) for f in schema], schema=schema
        )
