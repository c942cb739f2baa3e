"""From crawls, archives and tables to shards: the command `edit shard`; published data sets by name, in `datasets/`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from edittools.registry import Registry

if TYPE_CHECKING:
    from edittools.ingest.dataset import PublishedDataset

DATASETS = Registry("edittools.ingest.datasets", "edittools.datasets")
HALVES = ("beside", "stacked", "either")  # how before and after may lie in one image
EDITED = ("white", "black", "transparent")  # what is edited in masks of others


def dataset_names() -> tuple[str, ...]:
    """In alphabetical order; none is imported."""
    return DATASETS.names


@functools.cache
def load_dataset(name: str) -> PublishedDataset:
    """Raises KeyError."""
    found: PublishedDataset = DATASETS.load(name).DATASET
    return found
