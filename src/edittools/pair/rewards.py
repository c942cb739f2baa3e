"""Rewards of rows in one process, as training asks for them: by the stages, and so the numbers, of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from edittools.filter.direction import parse_rewards, reward_values
from edittools.metrics.rewards import combined
from edittools.rounding import significant
from edittools.stream.batch import Batch, Shard, Stage
from edittools.stream.groups import group_slices
from edittools.stream.rows import column_values


class Rewards:
    """One reward per candidate out of the scores that `stages` give (of `edit score`, `edit judge`, `edit filter`).

    by, floor   as `edit pair` takes them: of several scores each is normalised within its group, weighted and added
    """

    def __init__(self, stages: Sequence[Stage], by: Sequence[str], floor: Sequence[str] = ()) -> None:
        """Raises UsageError for what is no reward."""
        self.stages, self.rewards = list(stages), parse_rewards(by, floor)
        self.rejected = ""  # why a stage rejected a row, of the last such

    def score(self, cases: pa.RecordBatch) -> list[float | None]:
        """Of rows whose groups stand side by side, the higher the better; None where a stage gave no score, or rejected
        the row: what failed is no reward. Raises UsageError where no stage gives a score that `by` names."""
        found = self.scores(cases)
        none = dict.fromkeys(reward.name for reward in self.rewards)
        known = [found.get(identity, none) for identity in column_values(cases, "id")]
        made: list[float | None] = []
        for _, start, stop in group_slices(cases):
            values = {reward.name: [row[reward.name] for row in known[start:stop]] for reward in self.rewards}
            made += [None if value is None else significant(value) for value in combined(values, self.rewards)]
        return made

    def scores(self, cases: pa.RecordBatch) -> dict[str, dict[str, float | None]]:
        """Every reward by itself, the higher the better, by the row's id; a row that a stage rejected is not there."""
        return {identity: few for found in self.stream([cases]) for identity, few in found.items()}

    def stream(self, rounds: Iterable[pa.RecordBatch]) -> Iterator[dict[str, dict[str, float | None]]]:
        """The scores of rounds, as of `scores`, in order. A stage that asks a model draws rounds ahead, from another
        thread: many requests are under way while the source of rounds still makes some."""
        self.rejected = ""
        batches: Iterator[Batch] = (
            Batch(cases, Shard(number, None, ""), last=True, seen=cases.num_rows) for number, cases in enumerate(rounds)
        )
        for stage in self.stages:
            batches = stage(batches)
        for batch in batches:
            self.rejected = next((f"{one.stage}: {one.reason}" for one in batch.rejects), self.rejected)
            values = reward_values(batch.rows, self.rewards)
            yield {
                identity: {name: few[k] for name, few in values.items()}
                for k, identity in enumerate(column_values(batch.rows, "id"))
            }
