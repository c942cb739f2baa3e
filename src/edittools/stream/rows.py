"""Work on rows in threads, in order; and a walk over the images of a batch."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from edittools.errors import RowError
from edittools.record import IMAGE
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject, Shard, image_positions, map_images
from edittools.stream.fetch import Fetcher, image_references, kept_reference

CHUNK_ROWS = 16  # rows a thread takes at a time
_CHEAP_ROWS = 128  # that all threads have in hand where a row costs little
_FLUSH_SECONDS = 2.0
_FLUSH_ROWS = 256
_FLUSH_BYTES = 64 << 20


class RowPool:
    """Threads that work on small slices of a batch; results come in order."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool = ThreadPoolExecutor(max_workers=jobs) if jobs > 1 else None

    def run(
        self,
        batch: Batch,
        work: Callable[[Batch], Batch],
        schema: pa.Schema,
        rows: int = CHUNK_ROWS,
        ahead: int | None = None,
    ) -> Iterator[Batch]:
        """Apply `work` to slices of at most `rows` rows of a batch. It returns as many as it likes, of `schema`.

        So many slices are begun `ahead` of the one that is waited for, without it two for each thread.

        What is finished is sent on after 2 seconds at the latest, and before the next batch is waited for, so that
        nothing downstream starves.
        """
        pieces = _pieces(batch, rows)
        if self._pool is None:
            results: Iterator[Batch] = (work(piece) for piece in pieces)
        else:
            results = _in_order(self._pool, work, pieces, 2 * self.jobs if ahead is None else ahead)
        yield from _merge(results, schema)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def map_chunks(
    batches: Iterator[Batch],
    work: Callable[..., Batch],
    schema: Callable[[pa.Schema], pa.Schema],
    jobs: int,
    cheap: bool = False,
) -> Iterator[Batch]:
    """Apply `work` to small slices of every batch, in the same `jobs` threads (see RowPool.run).

    `work(piece, schema=...)` is told the schema of what it is to return: `schema` of the batch's. Where it is `cheap`,
    no pixels decoded, slices are larger, for each has a cost of its own, and no more rows than else are under way:
    who writes them reads the same row groups a little later, of which few are kept.
    """
    pool = RowPool(jobs)
    try:
        for batch in batches:
            made = schema(batch.rows.schema)
            rows, ahead = (max(CHUNK_ROWS, _CHEAP_ROWS // jobs), jobs - 1) if cheap else (CHUNK_ROWS, None)
            yield from pool.run(batch, functools.partial(work, schema=made), made, rows, ahead)
    finally:
        pool.close()


def _pieces(batch: Batch, rows: int) -> Iterator[Batch]:
    total = batch.rows.num_rows
    for start in range(0, max(total, 1), rows):
        yield batch.slice(start, min(start + rows, total))


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Batch], Batch], pieces: Iterator[Batch], ahead: int
) -> Iterator[Batch]:
    waiting: list[Future[Batch]] = []
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def _merge(results: Iterator[Batch], schema: pa.Schema) -> Iterator[Batch]:
    """Join small results until there is enough of them, or they have waited long enough."""
    gathered: list[Batch] = []
    rows = size = 0
    started = time.monotonic()
    for result in results:
        gathered.append(result)
        rows += result.rows.num_rows
        size += result.rows.nbytes
        if rows >= _FLUSH_ROWS or size >= _FLUSH_BYTES or time.monotonic() - started > _FLUSH_SECONDS:
            yield _join(gathered, schema)
            gathered, rows, size, started = [], 0, 0, time.monotonic()
    if gathered:
        yield _join(gathered, schema)


def _join(parts: list[Batch], schema: pa.Schema) -> Batch:
    rows = pa.concat_batches([part.rows for part in parts]) if len(parts) > 1 else parts[0].rows
    assert rows.schema.equals(schema), (rows.schema, schema)
    rejects = [reject for part in parts for reject in part.rejects]
    return Batch(rows, parts[0].shard, parts[-1].last, sum(part.seen for part in parts), rejects)


Visit = Callable[[int, tuple[int, ...], dict[str, Any]], dict[str, Any] | None]


def visit_images(rows: pa.RecordBatch, visit: Visit) -> tuple[pa.RecordBatch, dict[int, RowError]]:
    """Replace every image by what `visit(row, place, reference)` returns; all rows stay.

    A RowError out of `visit` marks the row: (the rows, {row number: the first error}).
    """
    failed: dict[int, RowError] = {}
    columns = []
    for column in rows.columns:
        places = iter(image_positions(column))

        def convert(values: pa.StructArray, places: Any = places) -> pa.StructArray:
            found: list[dict[str, Any] | None] = []
            for place, item in zip(next(places), image_references(values)):
                changed = item
                if item is not None and place is not None and place[0] not in failed:
                    try:
                        changed = visit(place[0], place, item)
                    except RowError as error:
                        failed[place[0]] = error
                found.append(kept_reference(changed))  # pyarrow takes no views
            return pa.array(found, type=IMAGE)

        columns.append(map_images(column, IMAGE, convert))
    return pa.record_batch(columns, schema=rows.schema), failed


def referenced_files(rows: pa.RecordBatch) -> set[str]:
    """The files that the images of a batch lie in."""
    found: set[str] = set()

    def look(values: pa.StructArray) -> pa.StructArray:
        found.update(file for file in values.field("file").unique().to_pylist() if file is not None)
        return values

    for column in rows.columns:
        map_images(column, IMAGE, look)
    return found


def drop_failed(batch: Batch, rows: pa.RecordBatch, failed: dict[int, RowError], stage: str) -> Batch:
    """The batch with `rows` less the failed ones, each rejected with its reason."""
    if not failed:
        return batch.replace(rows)
    ids = column_values(batch.rows, "id")
    paths = row_paths(batch.rows)
    rejects = [
        Reject(str(ids[row]), stage, error.reason, error.value, error.failed, paths[row])
        for row, error in sorted(failed.items())
    ]
    keep = pa.array([row not in failed for row in range(rows.num_rows)])
    return batch.replace(rows.filter(keep), rejects)


def inline_rows(rows: pa.RecordBatch, fetcher: Fetcher, stage: str) -> tuple[pa.RecordBatch, list[Reject]]:
    """The rows with the bytes of every image inside them, and the rows whose image cannot be read."""

    def visit(row: int, place: tuple[int, ...], reference: dict[str, Any]) -> dict[str, Any]:
        data = bytes(fetcher.get(reference))
        known = {name: reference[name] for name in ("width", "height", "format")}
        if None in known.values():
            header = codec.probe(data)
            known = {"width": header.width, "height": header.height, "format": header.format}
        return {**{field.name: None for field in IMAGE}, **known, "bytes": data}

    result, failed = visit_images(rows, visit)
    whole = drop_failed(Batch(rows, Shard(0, None, "")), result, failed, stage)
    return whole.rows, whole.rejects


def column_values(rows: pa.RecordBatch, name: str) -> list[Any]:
    """A column as Python values; None everywhere where there is no such column."""
    index = rows.schema.get_field_index(name)
    return rows.column(index).to_pylist() if index >= 0 else [None] * rows.num_rows


def in_language(instruction: dict[str, str | None], language: str | None) -> str | None:
    """The instruction in `language`, may be None; without a language the English one, else the first non-empty one."""
    if language is not None:
        return instruction.get(language)
    return instruction.get("en") or next((text for text in instruction.values() if text), None)


def instructions(rows: pa.RecordBatch, language: str | None, column: str = "instruction") -> list[str | None]:
    """Every row's instruction in a language (see in_language)."""
    return [in_language(item or {}, language) for item in column_values(rows, column)]


def row_paths(rows: pa.RecordBatch) -> list[str | None]:
    """Every row's path inside its crawl, where it says."""
    index = rows.schema.get_field_index("provenance")
    if index < 0 or not pa.types.is_struct(rows.schema.field(index).type):
        return [None] * rows.num_rows
    column = rows.column(index)
    at = column.type.get_field_index("path")
    return column.flatten()[at].to_pylist() if at >= 0 else [None] * rows.num_rows
