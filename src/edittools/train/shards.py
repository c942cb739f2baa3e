"""Training rows out of shard sets, by number."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from edittools.errors import EditError, RowError, UsageError
from edittools.stream import images
from edittools.stream.fetch import Fetcher, leaf_references
from edittools.stream.history import digest
from edittools.stream.pictures import source_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.train.data import Example

_CACHE_BYTES = 1 << 30


class ShardExamples:
    """The rows of a source that have an instruction, a target and as many sources as they name.

    References and texts are kept (a few hundred bytes a row). Decoded pictures are kept as well while they fit into
    1 GiB, so that small pictures are decoded once and not once an epoch.
    """

    def __init__(self, source: Source, language: str, max_pixels: int) -> None:
        for name in ("source", "target", "instruction"):
            if name not in source.schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to learn")
        self.max_pixels = max_pixels
        self.fetcher = Fetcher()
        self.lock = threading.Lock()
        self.cache: dict[int, Example] = {}
        self.cached = 0
        self.skipped = 0
        self.rows: list[tuple[str, str, str, str]] = []  # id, task, template, instruction
        self.pictures: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []
        digests = []
        for batch in source.batches(lambda shard: True):
            if batch.last:
                digests.append(batch.shard.digest)
            self._add(batch.rows, language)
        if not self.rows:
            raise EditError(f"no row has sources, a target and an instruction in `{language}`")
        self.data_id = digest(source.history.hash, *digests)

    def _add(self, rows: pa.RecordBatch, language: str) -> None:
        targets = list(leaf_references(rows.column("target")))
        texts = [(item or {}).get(language) for item in column_values(rows, "instruction")]
        origins = column_values(rows, "provenance")
        known = zip(column_values(rows, "id"), column_values(rows, "task"), origins, source_references(rows))
        for k, (identity, task, origin, sources) in enumerate(known):
            target, text = targets[k], texts[k]
            if target is None or not sources or not text:
                self.skipped += 1
                continue
            self.rows.append((identity, task or "", (origin or {}).get("template") or task or "", text))
            self.pictures.append(([_kept(item) for item in sources], _kept(target)))

    def __len__(self) -> int:
        return len(self.rows)

    def instructions(self) -> Sequence[str]:
        return [text for *_, text in self.rows]

    def load(self, indices: list[int]) -> list[Example]:
        """Decoded rows. Raises EditError for a picture that cannot be decoded: training data has to be whole."""
        return [self._example(index) for index in indices]

    def _example(self, index: int) -> Example:
        with self.lock:
            found = self.cache.get(index)
        if found is not None:
            return found
        identity, task, template, text = self.rows[index]
        sources, target = self.pictures[index]
        try:
            example = Example(
                identity, task, template, [self._decode(item) for item in sources], self._decode(target), text
            )
        except RowError as error:
            raise EditError(
                f"row {identity}: {error}", hint="`edit dedup` and `edit filter` reject such rows"
            ) from error
        size = example.target.nbytes + sum(picture.nbytes for picture in example.sources)
        with self.lock:
            if self.cached + size <= _CACHE_BYTES:
                self.cached += size
                self.cache[index] = example
        return example

    def _decode(self, reference: dict[str, Any]) -> Any:
        return images.decode(self.fetcher.get(reference), images.FULL, self.max_pixels)


def _kept(reference: dict[str, Any]) -> dict[str, Any]:
    """A reference that outlives its batch: inline bytes are copied out of it."""
    if isinstance(reference["bytes"], memoryview):
        return {**reference, "bytes": bytes(reference["bytes"])}
    return reference
