"""Scores as rewards: which ones are asked for, and which are the better the lower they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from edittools.errors import UsageError
from edittools.filter import all_filters
from edittools.metrics.rewards import Reward, split_number
from edittools.stream.row_images import column_references
from edittools.stream.scores import score_values

_IMAGES = ("result_", "source_", "copy_")


def lower_is_better(score: str) -> bool:
    """Whether less of a score is better: of distances, and of filters whose single number bounds from above."""
    for image in _IMAGES:
        score = score.removeprefix(image)
    if score.partition("_")[0] == "l1":
        return True
    return any(
        item.bare == "max" and (score == name or score.startswith(f"{name}_")) for name, item in all_filters().items()
    )


def sign(score: str) -> float:
    """Sign of a score: -1 where less is better, else 1."""
    return -1.0 if lower_is_better(score) else 1.0


def parse_rewards(by: Sequence[str], floors: Sequence[str] = ()) -> list[Reward]:
    """`NAME[:WEIGHT]` each, those with weight first, and floors `NAME:VALUE` in the score's own direction, of these or
    of others. Raises UsageError."""
    try:
        rewards = {reward.name: reward for reward in map(Reward.parse, by)}
        limits = dict(map(split_number, floors))
    except ValueError as error:
        raise UsageError(f"--by, --floor: {error}") from None
    for name, floor in limits.items():
        rewards[name] = dataclasses.replace(rewards.get(name, Reward(name, 0.0)), floor=floor * sign(name))
    return list(rewards.values())


def reward_values(
    rows: pa.RecordBatch, rewards: Sequence[Reward], image: str | None = None
) -> dict[str, list[float | None]]:
    """Every reward's score of every row, the higher the better; None of a row without an image in the column `image`,
    where one is named: it is no candidate, whatever scores it has. Raises UsageError for a score that rows lack."""
    there = [True] * rows.num_rows if image is None else [item is not None for item in column_references(rows, image)]
    return {
        reward.name: [
            sign(reward.name) * value if ok and value is not None else None
            for value, ok in zip(score_values(rows, reward.name), there)
        ]
        for reward in rewards
    }
