"""Groups: rows of one shard that stand side by side and have one value in `group`, as the candidates of a row do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pyarrow as pa

from edittools.errors import EditError
from edittools.stream.batch import Batch
from edittools.stream.rows import column_values

GROUP = "group"


def group_names(rows: pa.RecordBatch) -> list[str]:
    """The group of every row; a row without one is a group by itself, named by its id."""
    ids = column_values(rows, "id")
    return [str(identity if group is None else group) for group, identity in zip(column_values(rows, GROUP), ids)]


def group_slices(rows: pa.RecordBatch) -> list[tuple[str, int, int]]:
    """Name, first row and end of every group."""
    found, start = [], 0
    for name, members in groupby(group_names(rows)):
        stop = start + sum(1 for _ in members)
        found.append((name, start, stop))
        start = stop
    return found


def whole_groups(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same rows in batches that hold whole groups. Keeps the rows of one group, and the groups' names of a shard.

    Raises EditError for a group that goes on after another one has begun.
    """
    seen: set[str] = set()
    held: pa.RecordBatch | None = None
    for batch in batches:
        rows = batch.rows if held is None else pa.concat_batches([held, batch.rows])
        slices = group_slices(rows)
        held = None
        if slices and not batch.last:  # the last group may go on
            held, rows = rows.slice(slices[-1][1]), rows.slice(0, slices[-1][1])
            slices = slices[:-1]
        for name, _, _ in slices:
            if name in seen:
                raise EditError(
                    f"shard {batch.shard.index}: the rows of group {name} do not stand side by side",
                    hint="keep the order in which `edit sample --candidates` wrote them",
                )
            seen.add(name)
        yield batch.replace(rows)
        if batch.last:
            seen.clear()
