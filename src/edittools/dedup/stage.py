"""The fingerprints of rows, the verdict over them, and the stage that applies it.

Which copy stays: the one with most pixels, then the sharpest (at the signature's raster), then the smallest id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edittools.dedup import phash
from edittools.dedup.clusters import Components
from edittools.dedup.hamming import distance, near_pairs
from edittools.errors import EditError, RowError, UsageError
from edittools.filters import significant
from edittools.stream import files, images
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import digest
from edittools.stream.pictures import source_references, target_references
from edittools.stream.rows import RowPool, column_values, map_chunks, row_paths
from edittools.stream.wire import arrow_errors

_PAIRS_AT_ONCE = 1 << 18
# What a row looks like to dedup. `exact` is a digest of all its pictures' bytes and its instruction; `pairing`
# of everything that has to be equal before two rows can be near copies (its instruction, and the bytes of
# further sources). `signatures` are of the target in eight orientations, `source_signature` of the first source.
FINGERPRINT = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("exact", pa.binary(16)),
        ("pairing", pa.binary(8)),
        ("signatures", pa.binary(64)),
        ("source_signature", pa.binary(8)),
        ("one_image", pa.bool_()),
        ("pixels", pa.int64()),
        ("detail", pa.float64()),
        ("error", pa.string()),  # why there are no signatures: the row will be rejected
        ("error_value", pa.string()),
    ]
)
VERDICT = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("cluster", pa.int64()),
        ("duplicate_of", pa.string()),  # null for the copy that stays
        ("metric", pa.string()),  # exact or phash
        ("distance", pa.int32()),  # in bits, to the copy that stays
        ("error", pa.string()),  # the row's pictures could not be read
        ("error_value", pa.string()),
    ]
)


class Fingerprint:
    """Stage: rows in, fingerprints out."""

    name = "dedup"

    def __init__(self, *, perceptual: bool, max_pixels: int, jobs: int) -> None:
        self.perceptual, self.max_pixels, self.jobs = perceptual, max_pixels, jobs
        self.fetcher = Fetcher()
        self.shard, self.position = -1, 0

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return FINGERPRINT

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return map_chunks(self._numbered(batches), self.work, FINGERPRINT, self.jobs)

    def _numbered(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Give every row its number inside its shard: ids need not be unique over a whole set."""
        for batch in batches:
            yield self.number(batch)

    def number(self, batch: Batch) -> Batch:
        if batch.shard.index != self.shard:
            self.shard, self.position = batch.shard.index, 0
        count = batch.rows.num_rows
        numbers = pa.array(range(self.position, self.position + count), pa.int32())
        self.position += count
        return batch.replace(batch.rows.append_column("edit.row", numbers))

    def work(self, batch: Batch) -> Batch:
        """Fingerprints of a few rows. A row whose pictures cannot be read has the reason instead."""
        rows = batch.rows
        pictures = list(zip(source_references(rows), target_references(rows)))
        instructions = _instructions(rows)
        ids = column_values(rows, "id")
        hashes = _known_hashes(rows)
        made: list[dict[str, Any]] = []
        for row, number in enumerate(rows.column("edit.row").to_pylist()):
            sources, target = pictures[row]
            try:
                facts = self._row(sources, target, instructions[row], hashes[row])
            except RowError as error:
                value = None if error.value is None else str(error.value)
                facts = {"error": error.reason, "error_value": value}
            made.append({"id": ids[row], "shard": batch.shard.index, "row": number, **facts})
        return batch.replace(pa.RecordBatch.from_pylist(made, schema=FINGERPRINT))

    def _row(
        self, sources: list[dict[str, Any]], target: dict[str, Any] | None, instruction: str, known: str | None
    ) -> dict[str, Any]:
        picture = target or (sources[0] if sources else None)
        if picture is None:
            raise RowError("no picture")
        # A picture with an instruction and no target yet (a benchmark's row) is an edit row: the same picture with
        # another instruction, or with other references, is another row.
        one_image = not sources or (target is None and len(sources) == 1 and not instruction)
        others = [] if one_image else sources
        exact = hashlib.sha256(instruction.encode())
        pairing = hashlib.sha256(instruction.encode())
        facts: dict[str, Any] = {"one_image": one_image, "source_signature": None, "signatures": None}
        # The hash that `edit shard` recorded saves hashing the bytes again.
        if known is not None and not (one_image and _is_sha256(known)):
            known = None
        if known is not None and not self.perceptual:
            exact.update(bytes.fromhex(known))
            facts.update(pixels=(picture["width"] or 0) * (picture["height"] or 0), detail=0.0)
        else:
            data = self.fetcher.get(picture)
            exact.update(bytes.fromhex(known) if known else hashlib.sha256(data).digest())
            facts.update(self._look(data, picture))
        for k, source in enumerate(others):
            data = self.fetcher.get(source)
            content = hashlib.sha256(data).digest()
            exact.update(content)
            if k == 0 and self.perceptual:
                found = phash.signatures(images.decode(data, phash.RASTER, self.max_pixels))
                facts["source_signature"] = None if found is None else found[0].tobytes()
            else:
                pairing.update(content)
        facts.update(exact=exact.digest()[:16], pairing=pairing.digest()[:8])
        return facts

    def _look(self, data: Any, picture: dict[str, Any]) -> dict[str, Any]:
        header = picture if picture["width"] and picture["height"] else None
        if header is None:
            probed = images.probe(data, self.max_pixels)
            size = probed.width * probed.height
        else:
            size = header["width"] * header["height"]
        if not self.perceptual:
            return {"pixels": size, "detail": 0.0}
        raster = images.decode(data, phash.RASTER, self.max_pixels)
        found = phash.signatures(raster)
        return {
            "pixels": size,
            "detail": significant(phash.detail(raster)),
            "signatures": None if found is None else found.tobytes(),
        }


def _instructions(rows: pa.RecordBatch) -> list[str]:
    """Every row's instruction in all languages, and those of its turns, as one text."""
    texts = [_text(item) for item in column_values(rows, "instruction")]
    index = rows.schema.get_field_index("turns")
    if index >= 0 and rows.column(index).null_count < rows.num_rows:
        column = rows.column(index)
        said = column.values.field("instruction").to_pylist()  # not the whole turns: they hold pictures
        bounds = np.asarray(column.offsets).tolist()
        for row in range(rows.num_rows):
            texts[row] += "".join(f"\0turn {_text(item)}" for item in said[bounds[row] : bounds[row + 1]])
    return texts


def _text(item: Any) -> str:
    if isinstance(item, dict):
        return "\0".join(f"{language}={text}" for language, text in sorted(item.items()) if text)
    return str(item or "")


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def _known_hashes(rows: pa.RecordBatch) -> list[str | None]:
    """The sha256 of a one-image row's bytes, where `edit shard` recorded it."""
    provenance = column_values(rows, "provenance")
    tasks = column_values(rows, "task")
    return [
        item.get("sha256") if isinstance(item, dict) and task == "t2i" else None
        for item, task in zip(provenance, tasks)
    ]


# ---------------------------------------------------------------- the verdict


def find_clusters(prints: pa.Table, limit: int | None, *, rotations: bool, jobs: int) -> pa.Table:
    """The verdict over all fingerprints: every member of every cluster of two or more.

    `limit` is the largest distance of signatures in bits, None for exact copies only. For rows of one image copies
    that are rotated or mirrored count if `rotations`. Edit rows are copies of each other only if the target, the
    first source and everything in `pairing` agree.
    """
    readable = pc.is_null(prints.column("error"))
    errors = prints.filter(pc.invert(readable))
    prints = prints.filter(readable)
    components = Components(prints.num_rows)
    exact = _group(prints.column("exact"))
    _link_equal(components, exact)
    if limit is not None:
        for a, b in _near(prints, limit, rotations, jobs):
            components.union(a, b)
    labels = components.labels()
    failed = pa.table(
        {
            c.name: errors.column(c.name) if c.name in errors.column_names else pa.nulls(errors.num_rows, c.type)
            for c in VERDICT
        },
        schema=VERDICT,
    )
    return pa.concat_tables([_verdict(prints, labels, exact, rotations), failed])


def _group(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers that are equal where the values are."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy()


def _link_equal(components: Components, groups: np.ndarray) -> None:
    order = np.argsort(groups, kind="stable")
    same = np.flatnonzero(groups[order][1:] == groups[order][:-1])
    components.union(order[same], order[same + 1])


def _words(column: pa.ChunkedArray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A fixed-size binary column as uint64 (n, width), zeros where null, and which are not null."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    valid = np.asarray(array.is_valid())
    filled = array.fill_null(bytes(8 * width))
    data = np.frombuffer(filled.buffers()[1], np.uint64, count=width * len(filled), offset=8 * width * filled.offset)
    return data.reshape(-1, width), valid


def _near(prints: pa.Table, limit: int, rotations: bool, jobs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    signatures, valid = _words(prints.column("signatures"), phash.ORIENTATIONS)
    one_image = prints.column("one_image").to_numpy()
    single = np.flatnonzero(valid & one_image)
    if len(single):
        yield from _near_single(signatures, single, limit, rotations, jobs)
    edits = np.flatnonzero(valid & ~one_image)
    if len(edits):
        yield from _near_edits(prints, signatures, edits, limit, jobs)


def _near_single(
    signatures: np.ndarray, rows: np.ndarray, limit: int, rotations: bool, jobs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    values, first, inverse = np.unique(signatures[rows, 0], return_index=True, return_inverse=True)
    representatives = rows[first]
    yield representatives[inverse], rows  # equal signatures
    for i, j in near_pairs(values, limit, jobs=jobs):
        yield representatives[i], representatives[j]
    if not rotations:
        return
    for orientation in range(1, phash.ORIENTATIONS):
        turned, groups = _grouped(signatures[rows, orientation])
        for i, j in near_pairs(values, limit, queries=turned, jobs=jobs):
            a, b = groups.expand(i, j, None)
            yield rows[a], representatives[b]


class _Groups:
    """Rows that share a value: `order[starts[k] : starts[k + 1]]` are the rows with value k."""

    def __init__(self, inverse: np.ndarray, count: int) -> None:
        self.order = np.argsort(inverse, kind="stable")
        self.starts = np.searchsorted(inverse[self.order], np.arange(count + 1))

    def expand(self, i: np.ndarray, j: np.ndarray, other: _Groups | None) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of values as pairs of rows; without `other`, j is left as it is."""
        left = self.starts[i + 1] - self.starts[i]
        right = other.starts[j + 1] - other.starts[j] if other is not None else np.ones(len(j), np.int64)
        sizes = left * right
        pair = np.repeat(np.arange(len(i)), sizes)
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        width = right[pair]
        a = self.order[self.starts[i[pair]] + within // width]
        b = other.order[other.starts[j[pair]] + within % width] if other is not None else j[pair]
        return a, b


def _grouped(values: np.ndarray) -> tuple[np.ndarray, _Groups]:
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct, _Groups(inverse, len(distinct))


def _near_edits(
    prints: pa.Table, signatures: np.ndarray, rows: np.ndarray, limit: int, jobs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Edit rows: near targets, near first sources, and the rest equal."""
    sources, valid = _words(prints.column("source_signature"), 1)
    pairing, _ = _words(prints.column("pairing"), 1)
    rows = rows[valid[rows]]
    if not len(rows):
        return
    values, groups = _grouped(signatures[rows, 0])
    equal = (np.arange(len(values)), np.arange(len(values)))
    for block in (equal, *near_pairs(values, limit, jobs=jobs)):
        for start in range(0, len(block[0]), _PAIRS_AT_ONCE):
            i, j = (side[start : start + _PAIRS_AT_ONCE] for side in block)
            a, b = groups.expand(i, j, groups)
            a, b = rows[a], rows[b]
            near = (pairing[a, 0] == pairing[b, 0]) & (distance(sources[a, 0], sources[b, 0]) <= limit) & (a != b)
            if near.any():
                yield a[near], b[near]


def _verdict(prints: pa.Table, labels: np.ndarray, exact: np.ndarray, rotations: bool) -> pa.Table:
    members = np.bincount(labels, minlength=len(labels))[labels] > 1
    rows = np.flatnonzero(members)
    if not len(rows):
        return VERDICT.empty_table()
    ids = np.array(prints.column("id").take(pa.array(rows)).to_pylist(), dtype=object)
    pixels = prints.column("pixels").to_numpy()[rows]
    sharp = prints.column("detail").to_numpy()[rows]
    places = prints.column("shard").to_numpy()[rows], prints.column("row").to_numpy()[rows]
    # Sorted by cluster, then best first: most pixels, sharpest, smallest id, first in the data.
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    order = np.lexsort((places[1], places[0], rank, -sharp, -pixels, labels[rows]))
    sorted_labels = labels[rows][order]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    best = np.repeat(order[starts], lengths)
    number = np.repeat(np.arange(len(starts)), lengths)
    kept = best == order
    signatures, valid = _words(prints.column("signatures"), phash.ORIENTATIONS)
    here, there = rows[order], rows[best]
    turned = distance(signatures[here], signatures[there][:, :1])
    one_image = prints.column("one_image").to_numpy()[here]
    bits = np.where(one_image & rotations, turned.min(axis=1), turned[:, 0]).astype(np.int32)
    same = exact[here] == exact[there]
    bits[same] = 0
    unknown = ~same & ~(valid[here] & valid[there])
    verdict = pa.table(
        {
            "id": pa.array(ids[order], pa.string()),
            "shard": pa.array(places[0][order], pa.int32()),
            "row": pa.array(places[1][order], pa.int32()),
            "cluster": pa.array(number, pa.int64()),
            "duplicate_of": pa.array(ids[best], pa.string(), mask=kept),
            "metric": pa.array(np.where(same, "exact", "phash"), pa.string(), mask=kept),
            "distance": pa.array(bits, pa.int32(), mask=kept | unknown),
            "error": pa.nulls(len(order), pa.string()),
            "error_value": pa.nulls(len(order), pa.string()),
        }
    )
    return verdict.cast(VERDICT)


# ---------------------------------------------------------------- the stage


class DedupStage:
    """Drop (or mark) every copy but one. Two passes: fingerprint everything, decide, apply."""

    name = "dedup"
    first_step: tuple[str, ...] | None = ("--step", "fingerprint")

    def __init__(self, *, limit: int | None, rotations: bool, mark: str | None, max_pixels: int, jobs: int) -> None:
        self.limit, self.rotations, self.mark, self.jobs = limit, rotations, mark, jobs
        self.fingerprint = Fingerprint(perceptual=limit is not None, max_pixels=max_pixels, jobs=jobs)
        self.prints: list[pa.RecordBatch] = []
        self.verdict_digest: str | None = None
        self.verdict: pa.Table | None = None

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if self.mark is None:
            return schema
        if self.mark in schema.names:
            raise UsageError(f"--mark {self.mark}: the input has such a column already")
        return schema.append(pa.field(self.mark, pa.string()))

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on as they are; keep their fingerprints (about 150 bytes a row)."""
        pool = RowPool(self.jobs)
        try:
            for batch in batches:
                numbered = self.fingerprint.number(batch)
                for piece in pool.run(numbered, self.fingerprint.work, FINGERPRINT):
                    self.prints.append(piece.rows)
                yield batch
        finally:
            pool.close()

    def gather(self, batches: Iterator[Batch]) -> None:
        """Take the fingerprints that `--step fingerprint` wrote. Raises UsageError where it did not."""
        for batch in batches:
            if not batch.rows.schema.equals(FINGERPRINT):
                raise UsageError("--step verdict reads the folder that --step fingerprint wrote")
            self.prints.append(batch.rows)

    def decide(self) -> None:
        prints = pa.Table.from_batches(self.prints, schema=FINGERPRINT)
        self.prints = []
        self._set(find_clusters(prints, self.limit, rotations=self.rotations, jobs=self.jobs))

    def _set(self, verdict: pa.Table) -> None:
        self.verdict = verdict
        columns = [verdict.column(name) for name in ("shard", "row", "duplicate_of", "error")]
        self.verdict_digest = digest(*(str(column.to_pylist()) for column in columns))
        out = pc.or_(pc.is_valid(verdict.column("duplicate_of")), pc.is_valid(verdict.column("error")))
        dropped = verdict.filter(out)
        self.dropped: dict[int, dict[int, dict[str, Any]]] = {}
        for item in dropped.to_pylist():
            self.dropped.setdefault(item["shard"], {})[item["row"]] = item

    def save_verdict(self, path: str) -> None:
        assert self.verdict is not None
        write_verdict(self.verdict, path)

    def load_verdict(self, path: str) -> None:
        self._set(read_verdict(path))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
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
        if not found and self.mark is None:
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
        rejects = [self._reject(str(ids[k]), found[k], paths[k]) for k in sorted(gone)]
        if self.mark is not None:
            marks = [found[k]["duplicate_of"] if k in found else None for k in range(rows.num_rows)]
            rows = rows.append_column(self.mark, pa.array(marks, pa.string()))
        if gone:
            rows = rows.filter(pa.array([k not in gone for k in range(rows.num_rows)]))
        return batch.replace(rows, rejects)

    def _reject(self, identity: str, item: dict[str, Any], path: str | None) -> Reject:
        if item["error"] is not None:
            return Reject(identity, self.name, item["error"], item["error_value"], True, path)
        value = {"of": item["duplicate_of"], "metric": item["metric"], "distance": item["distance"]}
        return Reject(identity, self.name, "duplicate", value, False, path)


def write_verdict(verdict: pa.Table, path: str) -> None:
    """The verdict as one Parquet file."""
    with files.atomic(path) as file:
        pq.write_table(verdict, file, compression="zstd")


def read_verdict(path: str) -> pa.Table:
    """Raises EditError where the file is not a verdict."""
    with arrow_errors(path):
        table = pq.read_table(files.open_read(path))
    if not table.schema.equals(VERDICT):
        raise EditError(f"{path}: not a verdict of edit dedup")
    return table
