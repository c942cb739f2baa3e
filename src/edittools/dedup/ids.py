"""The rows that decisions are about: a digest of the ids of every shard."""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from edittools.errors import EditError
from edittools.stream.batch import Batch
from edittools.stream.rows import column_values

_NO_ROWS = xxhash.xxh3_128().hexdigest()


class ShardIds:
    """The ids of every shard in their order, as they come in."""

    def __init__(self) -> None:
        self._states: dict[int, xxhash.xxh3_128] = {}

    def add(self, shard: int, ids: list[str]) -> None:
        state = self._states.setdefault(shard, xxhash.xxh3_128())
        state.update("".join(f"{identity}\n" for identity in ids).encode())

    def digests(self) -> dict[str, str]:
        """By shard, as JSON has it."""
        return {str(shard): state.hexdigest() for shard, state in self._states.items()}


def check_ids(batches: Iterator[Batch], digests: dict[str, str]) -> Iterator[Batch]:
    """Pass on batches whose shards hold the rows of these digests, whichever of the shards come.

    Raises EditError in front of the last batch of another shard, which is then not written.
    """
    found = ShardIds()
    shards = 1 + max(map(int, digests), default=-1)
    for batch in batches:
        index, count = batch.shard.index, batch.shard.count
        found.add(index, column_values(batch.rows, "id"))
        other = batch.last and found.digests()[str(index)] != digests.get(str(index), _NO_ROWS)
        if other or (count is not None and count < shards):
            what = f"shard {index} has other rows" if other else f"it has {count} shards, not {shards}"
            raise EditError(f"the decisions are not about this input: {what}", hint="decide again, from the same input")
        yield batch
